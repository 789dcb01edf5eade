"""Published adapters together with other patches of a MODEL."""

from pathlib import Path

import pytest
import torch
from counting import ATTENTION, COPIES, LINEAR, SYNCS, operations, total
from twins import conditioning, predict

from facecdm.adapter.features import Features
from facecdm.adapter.person import Person
from facecdm.formats.imported import import_adapter
from facecdm.formats.read import Published
from facecdm.hosts.comfy.sampling.apply import apply_person
from facecdm.hosts.comfy.unet import layer_map

SIGMA = 3.0


@pytest.fixture
def apply(small, make_state):
    """MODEL → MODEL with a FaceID person, prompt and negative prompt."""
    state = make_state("faceid", lora_rank=0)
    adapter = import_adapter(Published(state["image_proj"], state["ip_adapter"], {}, Path("a.bin")))
    face = torch.randn(1, 512, generator=torch.Generator().manual_seed(1))
    face = Features(torch.nn.functional.normalize(face, dim=1))
    return lambda model: apply_person(model, Person(adapter, face, negative={"face": face.empty()}))


@pytest.fixture
def epsilon(small):
    twins, _ = small

    def epsilon(model, cfg: float = 3.0, size=(8, 8)):
        generator = torch.Generator().manual_seed(3)
        x = torch.randn(1, 4, *size, generator=generator) * SIGMA
        prompts = [
            conditioning(torch.randn(1, 77, twins.context, generator=generator), torch.zeros(1, 1280)) for _ in range(2)
        ]
        return predict(model, x, SIGMA, *prompts, cfg=cfg)

    return epsilon


class Theirs:
    """A patch as IPAdapter_plus makes it: it computes the text's attention itself, and others are added to it."""

    def __init__(self, callback, **options):
        self.callbacks = [(callback, options)]

    def add(self, callback, **options):
        self.callbacks.append((callback, options))

    def __call__(self, q, k, v, extra_options):
        from comfy.ldm.modules.attention import optimized_attention

        out = optimized_attention(q, k, v, extra_options["n_heads"])
        for callback, options in self.callbacks:
            if options["sigma_start"] >= extra_options["sigmas"][0].item() >= options["sigma_end"]:
                out = out + callback(out, q, k, v, extra_options, **options)
        return out


def patched_by_theirs(model, sdxl: bool):
    """As its `set_model_patch_replace`: keys without the transformer's number in SD1.5, with it in SDXL."""
    keys = (
        [("input", i, j) for i in (4, 5) for j in range(2)]
        if sdxl
        else [("input", i) for i in (1, 2, 4, 5, 7, 8)] + [("output", i) for i in range(3, 12)]
    )
    model = model.clone()
    options = model.model_options["transformer_options"] = model.model_options["transformer_options"].copy()
    replace = options["patches_replace"] = dict(options.get("patches_replace", {}))
    patches = replace["attn2"] = dict(replace.get("attn2", {}))

    def callback(out, q, k, v, extra_options, weight, **more):
        return weight * torch.sin(q)

    for key in keys:
        kwargs = {"weight": 0.5, "sigma_start": 99.0, "sigma_end": 0.0}
        if key in patches:
            patches[key].add(callback, **kwargs)
        else:
            patches[key] = Theirs(callback, **kwargs)
    return model


def test_ipadapter_plus_before_and_after(small, apply, epsilon, clones):
    twins, _ = small
    before = epsilon(apply(patched_by_theirs(twins.model, twins.sdxl)))
    after = epsilon(patched_by_theirs(apply(twins.model), twins.sdxl))
    torch.testing.assert_close(before, after, rtol=0, atol=1e-4)
    for alone in (apply(twins.model), patched_by_theirs(twins.model, twins.sdxl)):
        assert (epsilon(alone) - after).abs().max() > 1e-2, "both have an effect"
    for first in (
        patched_by_theirs(apply(twins.model), twins.sdxl),
        apply(patched_by_theirs(twins.model, twins.sdxl)),
    ):
        alone = epsilon(first)
        for _ in range(2):
            assert not alone.equal(epsilon(patched_by_theirs(first, twins.sdxl))), "and more may follow"
        assert epsilon(first).equal(alone), "which leaves the first as it was"


@pytest.mark.parametrize("small", ["sd15"], indirect=True)
def test_a_step_adds_only_attention(small, apply, epsilon, monkeypatch):
    """Also with an empty face for the negative prompt: no linear layer, no copy, no host sync per step."""
    import comfy.ldm.modules.attention as attention

    monkeypatch.setattr(attention, "optimized_attention", attention.attention_pytorch)
    twins, _ = small
    prompts = [conditioning(torch.randn(1, 77, twins.context), torch.zeros(1, 1280)) for _ in range(2)]
    model = apply(twins.model)
    epsilon(model)  # the first sampling makes its tokens, once
    plain, shown = operations(twins.model, *prompts), operations(model, *prompts)
    for names in (LINEAR, COPIES, SYNCS):
        assert total(shown, names) == total(plain, names)
    assert total(shown, ATTENTION) - total(plain, ATTENTION) == len(layer_map(twins.model).layers)


def test_windows_of_a_video_use_their_own_references():
    """Core's context windows and AnimateDiff's sample a part of the batch at a time."""
    from types import SimpleNamespace

    from facecdm.hosts.comfy.sampling.chunks import join_chunks, sampled_images

    assert sampled_images({"context_window": SimpleNamespace(index_list=[2, 3])}) == (2, 3)
    assert sampled_images({"ad_params": {"sub_idxs": [4]}}) == (4,) and sampled_images({"ad_params": None}) is None
    assert sampled_images({"context_window": SimpleNamespace(index_list=[2, 3], dim=3)}) is None, "columns, no images"
    references = torch.arange(4.0).view(4, 1, 1)
    assert join_chunks([references], 3, (1, 3, 9)).flatten().tolist() == [1, 3, 3]
    assert join_chunks([references, references[:1]], 2, None).flatten().tolist() == [0, 1, 0, 0]


def test_freeu(small, apply, epsilon):
    from comfy_extras.nodes_freelunch import FreeU_V2

    twins, size = small[0], (16, 16)  # FreeU gives NaN for a feature map of 1 × 1

    def freeu(model):
        return FreeU_V2().patch(model, 1.3, 1.4, 0.9, 0.2)[0]

    both = epsilon(freeu(apply(twins.model)), size=size)
    torch.testing.assert_close(both, epsilon(apply(freeu(twins.model)), size=size))
    for alone in (apply(twins.model), freeu(twins.model)):
        assert (epsilon(alone, size=size) - both).abs().max() > 1e-3


def test_lcm_at_cfg_1_has_no_negative_row(small, apply, epsilon):
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    twins, _ = small
    lcm = ModelSamplingDiscrete().patch(twins.model, "lcm", False)[0]
    rows = []

    def watch(apply_model, args):
        rows.append(len(args["input"]))
        return apply_model(args["input"], args["timestep"], **args["c"])

    lcm.set_model_unet_function_wrapper(watch)
    shown, plain = epsilon(apply(lcm), cfg=1.0), epsilon(lcm, cfg=1.0)
    assert rows == [1, 1] and torch.isfinite(shown).all() and not shown.equal(plain)
    assert not epsilon(apply(lcm), cfg=1.5).equal(epsilon(lcm, cfg=1.5)) and rows[2:] == [2, 2]


def test_every_tile_is_conditioned_on_the_person(small, apply, epsilon):
    """A wrapper that calls the U-Net tile by tile, as packs for tiled diffusion do."""
    twins, _ = small

    def tiles(apply_model, args):
        return torch.cat([apply_model(tile, args["timestep"], **args["c"]) for tile in args["input"].chunk(2, -1)], -1)

    tiled = apply(twins.model)
    tiled.set_model_unet_function_wrapper(tiles)
    plain = twins.model.clone()
    plain.set_model_unet_function_wrapper(tiles)
    whole, without = epsilon(tiled, size=(8, 16)), epsilon(plain, size=(8, 16))
    assert all((a - b).abs().max() > 1e-2 for a, b in zip(whole.chunk(2, -1), without.chunk(2, -1)))
    torch.testing.assert_close(epsilon(apply(plain), size=(8, 16)), whole)
