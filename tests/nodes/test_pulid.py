"""PuLID through our nodes: its features, its modes, and together with other adapters on one MODEL."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from published import SMALL_XL, published_state
from twins import SMALL_SDXL, conditioning, make_twins, predict, stir

SIGMA = 2.0


@pytest.fixture(scope="module")
def model(in_comfy):
    return make_twins(SMALL_SDXL).model


@pytest.fixture(scope="module")
def make_imported(in_comfy, model):
    bases, imported = (in_comfy.module(f"facecdm.{name}") for name in ("bases", "formats.imported"))
    layer_map = in_comfy.module("facecdm.hosts.comfy.unet").layer_map(model)

    def make(family: str):
        state = published_state(family, layer_map, SMALL_XL)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(bases.BASES, "small SDXL", bases.Base("small SDXL", layer_map))
            return imported.import_adapter(
                in_comfy.module("facecdm.formats.read").Published(
                    state["image_proj"], state["ip_adapter"], {}, Path("made-up.bin")
                ),
                family,
            )

    return make


@pytest.fixture(scope="module")
def pulid(make_imported):
    return make_imported("pulid")


@pytest.fixture(scope="module")
def eva(in_comfy):
    """PuLID's CLIP_VISION, narrow."""
    module = in_comfy.module("facecdm.formats.eva")
    torch.manual_seed(0)
    tower = module.EvaTower(module.EvaSizes(image=84, width=48, heads=1, hidden=64, depth=21)).requires_grad_(False)
    for value in tower.parameters():
        value.copy_(torch.randn_like(value) * 0.1)
    return in_comfy.module("facecdm.hosts.comfy.eva").EvaVision(tower)


@pytest.fixture(scope="module")
def faces(make_faces, found_in, picture):
    """A made-up face with key points and a crop in `picture`."""
    made, points = make_faces(recogniser="antelopev2/glintr100.onnx"), [[3, 4], [7, 4], [5, 6], [3.5, 8], [6.5, 8]]
    return found_in(replace(made, faces=(replace(made.faces[0], keypoints=torch.tensor(points)),)), picture)


@pytest.fixture(scope="module")
def picture():
    """Of the size that `make_faces` says its faces were found in."""
    return torch.rand(1, 10, 10, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def apply_output(in_comfy, model, pulid, eva, faces, picture):
    defaults = {
        spec.id: spec.default
        for spec in in_comfy.nodes["FaceCDMApply"].define_schema().inputs
        if getattr(spec, "default", None) is not None
    }

    def apply(**changes):
        given = {"model": model, "adapter": pulid, "faces": faces, "clip_vision": eva, "image": picture}
        return in_comfy.node_output("FaceCDMApply", **defaults | given | changes)

    return apply


@pytest.fixture(scope="module")
def apply(apply_output):
    return lambda **changes: apply_output(**changes).result[0]


@pytest.fixture(scope="module")
def options(in_comfy):
    defaults = {
        spec.id: spec.default
        for spec in in_comfy.nodes["FaceCDMApplyOptions"].define_schema().inputs
        if getattr(spec, "default", None) is not None
    }
    return lambda **changes: in_comfy.run("FaceCDMApplyOptions", **defaults | changes)[0]


def noise(model, cfg: float = 3.0):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(1, 4, 8, 8, generator=generator) * SIGMA
    prompts = [
        conditioning(torch.randn(1, 77, 128, generator=generator), torch.randn(1, 1280, generator=generator))
        for _ in range(2)
    ]
    return predict(model, x, SIGMA, *prompts, cfg=cfg)


def same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * b.abs().max().item())


def differ(*noises):
    for i in range(len(noises)):
        assert (noises[i] - noises[i - 1]).abs().max() > 1e-3 * noises[i].abs().max()


def person_of(in_comfy, model, pulid, eva, faces, picture, stream):
    """By hand: what the tower says of the face, both sides, in one of PuLID's modes."""
    features, person = in_comfy.module("facecdm.adapter.features"), in_comfy.module("facecdm.adapter.person")
    embedding, states = eva.encode_faces(faces, picture)
    shown = features.Features(
        in_comfy.module("facecdm.formats.families.pulid").identity_vector(faces.raw, embedding), states
    )
    empty = shown.empty(tuple(torch.zeros_like(state) for state in states))
    made = person.Person(pulid, shown, settings={"face": person.Stream(**stream)}, negative={"face": empty})
    return in_comfy.module("facecdm.hosts.comfy.sampling.apply").apply_person(model, made)


@pytest.mark.parametrize(
    "changes,stream",
    [
        ({}, {"projection": "token_v2", "zeros": 8}),
        ({"projection": "token"}, {"projection": "token", "zeros": 16}),
        ({"projection": "none"}, {"kappa": -1.0}),
    ],
)
def test_apply_gives_pulids_features(in_comfy, model, pulid, eva, faces, picture, apply, options, changes, stream):
    """In the modes fidelity, style and neutral."""
    shown = noise(apply(options=options(**changes)))
    same(shown, noise(person_of(in_comfy, model, pulid, eva, faces, picture, stream)))
    differ(shown, noise(model))


def test_fidelity_is_the_default(apply, options):
    assert noise(apply()).equal(noise(apply(options=options(projection="token_v2"))))


def test_another_picture_of_the_same_face_makes_another_result(apply, faces, found_in, picture):
    differ(noise(apply()), noise(apply(image=1 - picture, faces=found_in(faces, 1 - picture))))


def test_keep_prompt_warns_on_the_node_that_it_has_no_effect(apply, apply_output, options):
    """All of the text's part is removed already; with projection none nothing is removed."""
    (none,) = apply_output(keep_prompt=0.5, options=options(projection="none")).ui["facecdm_warnings"]
    assert none.startswith("keep_prompt is 0.5 and has no effect: projection is none")
    kept = apply_output(keep_prompt=0.5)
    assert noise(kept.result[0]).equal(noise(apply()))
    assert kept.ui["facecdm_warnings"] == [
        "keep_prompt is 0.5 and has no effect: PuLID already removes all of the text's part. To follow the prompt "
        "more, lower face_strength."
    ]


def test_noise_changes_the_negative_prompt_only(apply, options):
    some = apply(options=options(noise=0.5))
    differ(noise(some), noise(apply()))
    assert noise(some, cfg=1.0).equal(noise(apply(), cfg=1.0))


def test_a_negative_picture_is_refused(errors, apply, options, picture):
    """PuLID uses zeros for the negative prompt."""
    with pytest.raises(errors.Mismatch, match="PuLID uses an empty face for the negative prompt"):
        apply(options=options(negative_image=picture))


# ---- with other adapters ----


def test_with_an_own_adapter_and_instantid(model, apply, make_adapter, make_imported):
    own, instantid = stir(make_adapter(model)), make_imported("instantid")
    plain = noise(model)

    def chain(*adapters):
        result = model
        for adapter in adapters:
            more = {} if adapter is None else {"adapter": adapter, "clip_vision": None, "image": None}
            result = apply(model=result, **more)
        return noise(result)

    alone = [chain(adapter) for adapter in (None, own, instantid)]
    differ(plain, *alone)
    both = chain(None, own)
    differ(both, alone[0], alone[1])
    same(both, chain(own, None))
    three = chain(None, own, instantid)
    differ(three, both, alone[2])
    same(three, chain(instantid, None, own))


def test_with_another_packs_patch(model, apply):
    """A patch that is there first replaces the text's attention; ours is added to it."""

    def foreign(q, k, v, extra_options):
        return q * 0.1

    before = model.clone()
    for key in apply().model_options["transformer_options"]["patches_replace"]["attn2"]:
        before.set_model_attn2_replace(foreign, *key)
    differ(noise(before), noise(model), noise(apply(model=before)), noise(apply()))


# ---- errors ----


@pytest.fixture(scope="module")
def errors(in_comfy):
    return in_comfy.module("facecdm.errors")


def test_without_the_tower(errors, apply):
    with pytest.raises(errors.FaceCDMError, match="PuLID encodes.*EVA02_CLIP_L_336_psz14_s6B.pt.*Load EVA CLIP"):
        apply(clip_vision=None)


def test_with_another_tower(errors, apply, vision):
    with pytest.raises(errors.Mismatch, match="PuLID encodes.*EVA02_CLIP_L_336_psz14_s6B.pt.*Load EVA CLIP"):
        apply(clip_vision=vision)


def test_without_the_picture(errors, apply):
    with pytest.raises(errors.FaceCDMError, match="connect the picture of Detect & Embed Faces to image"):
        apply(image=None)


def test_with_another_picture(errors, apply):
    with pytest.raises(errors.FaceCDMError, match="image holds 1 picture.* of 12 × 10"):
        apply(image=torch.rand(1, 10, 12, 3))


def test_with_an_image_stream_of_another_tower(errors, in_comfy, apply, pulid, make_imported, monkeypatch, caplog):
    """There is one clip_vision. An encoded picture needs none."""
    encoders = in_comfy.module("facecdm.formats.encoders")
    monkeypatch.setattr(encoders, "ENCODERS", (encoders.Encoder("ViT-small", SMALL_XL.states, SMALL_XL.pooled, "s"),))
    both = {
        family: in_comfy.run("FaceCDMCombineAdapters", adapter=pulid, other=make_imported(family))[0]
        for family in ("ip-adapter", "ip-adapter-plus")
    }
    for family, end in (("ip-adapter", "or connect the picture by CLIP Vision Encode"), ("ip-adapter-plus", "other$")):
        with pytest.raises(errors.Mismatch, match=f"PuLID uses the tower EVA02.* ViT-small.*an Apply FaceCDM.*{end}"):
            apply(adapter=both[family])
    output = SimpleNamespace(image_embeds=torch.rand(1, SMALL_XL.pooled), penultimate_hidden_states=None)
    shown = apply(adapter=both["ip-adapter"], clip_vision_output=output)
    keeping = apply(adapter=both["ip-adapter"], clip_vision_output=output, keep_prompt=0.5)
    differ(noise(keeping), noise(shown))
    assert not caplog.records, "keep_prompt acts on the image stream"
    differ(noise(shown), noise(apply()))
    with pytest.raises(errors.Mismatch, match="PuLID uses the tower EVA02"):
        apply(adapter=both["ip-adapter-plus"], clip_vision_output=output)


def test_the_tower_for_another_adapter(errors, apply, make_imported, picture):
    with pytest.raises(errors.Mismatch, match="PuLID's EVA-CLIP"):
        apply(adapter=make_imported("ip-adapter-plus"))
