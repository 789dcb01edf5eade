"""PuLID-FLUX and WithAnyone through the nodes: from a file in its folder to a MODEL of Flux.1's kind."""

from types import SimpleNamespace

import flux
import pytest
import torch
from published_flux import SMALL_FLUX, pulid_flux, state_of, withanyone
from published_nodes import make_options
from safetensors.torch import save_file
from tensors import close
from twins import predict

SIGMA = 0.7
FILES = {"pulid": "pulid/pulid_flux_v0.9.1.safetensors", "withanyone": "ipadapter/withanyone.safetensors"}


@pytest.fixture(scope="module")
def model(in_comfy):
    return flux.make_flux()


@pytest.fixture(scope="module", autouse=True)
def small_base(in_comfy, model):
    """Give the small Flux a name among the bases, and the small tower among the towers."""
    bases, encoders = (in_comfy.module(f"facecdm.{name}") for name in ("bases", "formats.encoders"))
    layer_map = in_comfy.module("facecdm.hosts.comfy.base_model").layer_map(model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(bases.BASES, "small Flux", bases.Base("small Flux", layer_map, tuple((i, 1) for i in range(8))))
        small = encoders.Encoder("SigLIP-small", SMALL_FLUX.siglip, SMALL_FLUX.siglip, "siglip.safetensors", 9)
        patch.setattr(encoders, "SIGLIP", small)
        yield


@pytest.fixture
def load(in_comfy, folder):
    """PuLID-FLUX or WithAnyone, its report and its vision tower."""
    import folder_paths

    def load(kind: str):
        key, _, name = FILES[kind].partition("/")
        shapes = pulid_flux(SMALL_FLUX, 4) if kind == "pulid" else withanyone(SMALL_FLUX, 8)
        save_file(state_of(shapes), f"{folder_paths.get_folder_paths(key)[0]}/{name}")
        return in_comfy.run("FaceCDMLoadAdapter", name=FILES[kind], family="auto")

    return load


@pytest.fixture
def faces(make_faces):
    return make_faces(recogniser="antelopev2/glintr100.onnx")


class Eva:
    """Stands in for PuLID's tower: what it says depends on the picture alone."""

    def encode_faces(self, faces, pictures):
        generator = torch.Generator().manual_seed(int(pictures.sum() * 1000))
        states = tuple(torch.randn(len(faces), 6, SMALL_FLUX.states, generator=generator) for _ in range(5))
        return torch.randn(len(faces), 768, generator=generator), states


class Siglip:
    """Stands in for core's CLIP_VISION of a SigLIP tower; keeps the pictures."""

    def __init__(self):
        self.pictures = []

    def encode_image(self, pictures, crop=True):
        self.pictures.append(pictures)
        generator = torch.Generator().manual_seed(int(pictures.sum() * 1000))
        last = torch.randn(len(pictures), 9, SMALL_FLUX.siglip, generator=generator)
        return SimpleNamespace(image_embeds=last, penultimate_hidden_states=last * 2, last_hidden_state=last)


@pytest.fixture
def apply_output(in_comfy, model, faces, picture):
    defaults = {
        spec.id: spec.default
        for spec in in_comfy.nodes["FaceCDMApply"].define_schema().inputs
        if getattr(spec, "default", None) is not None
    }

    def apply(adapter, **changes):
        given = {"model": model, "adapter": adapter, "faces": faces, "image": picture(), "mask": torch.ones(64, 96)}
        if isinstance(changes.get("options"), dict):
            changes["options"] = make_options(in_comfy, **changes["options"])
        return in_comfy.node_output("FaceCDMApply", **defaults | given | changes)

    return apply


def velocity(model, cfg: float = 1.0):
    return predict(model, flux.latents(), SIGMA, flux.prompt(model, 1), flux.prompt(model, 2), cfg=cfg)


def warnings(output) -> list[str]:
    return (output.ui or {}).get("facecdm_warnings", [])


def test_pulid_flux(in_comfy, load, model, apply_output):
    adapter, report, _ = load("pulid")
    assert report.startswith("PuLID-FLUX for small Flux, recognised by its content")
    output = apply_output(adapter, clip_vision=Eva())
    plain, shown = velocity(model), velocity(output.result[0])
    assert (plain - shown).abs().max() > 0.01 * plain.abs().max() and not warnings(output)
    noisy = apply_output(adapter, clip_vision=Eva(), options={"noise": 0.5}).result[0]
    assert torch.equal(velocity(noisy), shown), "noise is for the negative prompt's empty face"
    assert not torch.equal(velocity(noisy, 3.0), velocity(output.result[0], 3.0))


def test_withanyone(load, model, apply_output):
    """Two streams of one file; without a picture only the face's own acts."""
    adapter, report, _ = load("withanyone")
    assert report.count(" for small Flux, recognised by its content") == 2 and "WithAnyone SigLIP" in report
    face_only = velocity(apply_output(adapter, image=None).result[0])
    no_image = velocity(apply_output(adapter, image=None, image_strength=0.0).result[0])
    assert torch.equal(face_only, no_image) and not torch.equal(face_only, velocity(model))


def test_withanyones_picture_is_the_square_around_the_face(load, apply_output, found_in, faces, picture):
    adapter, tower, seen = load("withanyone")[0], Siglip(), picture()
    placed = found_in(faces, seen)
    (one,) = placed.faces
    box = torch.tensor([4.0, 10.0, 14.0, 34.0])  # narrow: widened to 24 × 24, of which the left 3 columns are outside
    placed = type(placed)((type(one)(**{**vars(one), "box": box}),), placed.recogniser)
    output = apply_output(adapter, faces=placed, image=seen, clip_vision=tower)
    cut = seen[:, 10:34, 0:21].movedim(-1, 1)
    wanted = torch.nn.functional.interpolate(cut, (512, 512), mode="bicubic", antialias=True).clamp(0, 1).movedim(1, -1)
    torch.testing.assert_close(tower.pictures[0], wanted)
    both = velocity(output.result[0])
    assert not torch.equal(both, velocity(apply_output(adapter, image=None).result[0]))


def test_withanyone_stops_where_the_face_is_not_in_the_picture(load, apply_output, errors):
    with pytest.raises(errors.FaceCDMError, match="WithAnyone SigLIP encodes the faces in their pictures: connect the"):
        apply_output(load("withanyone")[0], clip_vision=Siglip())


def test_withanyone_encodes_one_picture_for_each_face(load, apply_output, errors, make_faces):
    encoded = Siglip().encode_image(torch.zeros(2, 8, 8, 3))
    three = make_faces(3, recogniser="antelopev2/glintr100.onnx")
    with pytest.raises(errors.Mismatch, match="clip_vision_output has 2 pictures and faces has 3"):
        apply_output(load("withanyone")[0], faces=three, image=None, clip_vision_output=encoded)


def test_withanyone_has_nothing_for_the_negative_prompt(load, apply_output, errors, picture, model):
    adapter = load("withanyone")[0]
    for options, message in (
        ({"noise": 0.5}, "noise is 0.5 .*WithAnyone has nothing for the negative prompt"),
        ({"negative_image": picture()}, "WithAnyone SigLIP has nothing for the negative prompt: disconnect it"),
    ):
        with pytest.raises(errors.Mismatch, match=message):
            apply_output(adapter, image=None, options=options)
    shown, plain = velocity(apply_output(adapter, image=None).result[0], 1.0), velocity(model)
    negative = predict(model, flux.latents(), SIGMA, flux.prompt(model, 2))
    close(velocity(apply_output(adapter, image=None).result[0], 3.0), negative + 3 * (shown - negative), 1e-4)
    assert not torch.equal(shown, plain)


def test_a_missing_box_is_said(load, apply_output):
    assert (
        "WithAnyone was trained with a box for each face"
        in warnings(apply_output(load("withanyone")[0], image=None, mask=None))[0]
    )
    assert not warnings(apply_output(load("pulid")[0], clip_vision=Eva(), mask=None))


def test_blocks_without_a_cell_are_said(load, apply_output):
    adapter = load("pulid")[0]
    curve = {"curve": "custom", "custom_curve": "0:1, 1:0.5, 7:1, 4:1"}
    assert warnings(apply_output(adapter, clip_vision=Eva(), **curve)) == [
        "custom_curve names block 1, 4, where this adapter does not act. It acts after the blocks 0, 2, 3, 7."
    ]
    assert not warnings(apply_output(adapter, clip_vision=Eva(), curve="custom", custom_curve="1, 0"))


def test_presets_of_a_u_nets_blocks_are_refused(load, apply_output, errors):
    with pytest.raises(errors.FaceCDMError, match="style is a preset of SD1.5, SD2, SDXL, and"):
        apply_output(load("pulid")[0], clip_vision=Eva(), curve="style")


def test_a_projection_acts_with_keep_prompt(load, apply_output):
    adapter, options = load("pulid")[0], {"projection": "token"}
    alone = apply_output(adapter, clip_vision=Eva(), options=options)
    kept = apply_output(adapter, clip_vision=Eva(), options=options, keep_prompt=0.7)
    assert warnings(alone) == [
        "projection is token (FaceCDM Apply Options) and has no effect while keep_prompt is 0: raise it"
    ]
    assert not warnings(kept) and not torch.equal(velocity(alone.result[0]), velocity(kept.result[0]))


def test_what_has_no_meaning_for_it_is_refused(in_comfy, load, errors, model, faces):
    adapter = load("withanyone")[0]
    with pytest.raises(errors.FaceCDMError, match="a combination of two|WithAnyone for small Flux"):
        in_comfy.run("FaceCDMExportAdapter", adapter=adapter, name="x", overwrite=False)
    with pytest.raises(errors.FaceCDMError, match="PuLID-FLUX for small Flux, and an IP-Adapter file holds keys"):
        in_comfy.run("FaceCDMExportAdapter", adapter=load("pulid")[0], name="x", overwrite=False)
    tokens, sources = (in_comfy.module(f"facecdm.formats.{name}") for name in ("tokens", "sources"))
    with pytest.raises(errors.UnsupportedModel, match="WithAnyone makes no tokens .* no ControlNet was trained"):
        tokens.face_tokens(adapter, sources.Sources(faces))
    with pytest.raises(errors.UnsupportedModel, match="FaceCDM works in the cross-attention of U-Nets"):
        in_comfy.module("facecdm.hosts.comfy.unet").layer_map(model)


@pytest.mark.slow
def test_cores_clip_vision_runs_withanyones_tower(in_comfy):
    """SigLIP's last states of a full-size tower with random weights, against transformers: of the whole picture."""
    from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

    torch.manual_seed(0)
    theirs = SiglipVisionModel(SiglipVisionConfig(image_size=256, patch_size=16)).eval()
    state = {f"vision_model.{key.removeprefix('vision_model.')}": value for key, value in theirs.state_dict().items()}
    load, encoders = (in_comfy.module(f"facecdm.{name}") for name in ("hosts.comfy.siglip", "formats.encoders"))
    base = encoders.Encoder("SigLIP-base-256", 768, 768, "siglip.safetensors", 256)
    tower = load.load_siglip(state, base)
    picture = torch.rand(2, 8, 16, 3).repeat_interleave(32, 1).repeat_interleave(32, 2)
    processor = SiglipImageProcessor(size={"height": 256, "width": 256}, resample=3)
    pixels = processor(list((picture * 255).round().byte().numpy()), return_tensors="pt").pixel_values
    with torch.no_grad():
        wanted = theirs(pixel_values=pixels).last_hidden_state
    found = in_comfy.module("facecdm.hosts.comfy.vision").ComfyVision(tower).encode(picture).last
    assert (found - wanted).abs().max() < 0.02 * wanted.abs().max(), "core rounds and scales pictures in its own way"
    assert load.load_siglip({}, base) is None
