"""Every family that diffusers can load predicts the same noise in ComfyUI, with prompt and negative prompt."""

from pathlib import Path

import pytest
import torch
from oracle import diffusers_adapters, predict_with_images
from published import LARGE_STATES, SD15, SDXL, WITH_LORA, published_state
from twins import FULL_SD15, conditioning, make_twins, predict

from facecdm import bases
from facecdm.adapter.features import Features
from facecdm.adapter.person import Person, Stream
from facecdm.formats.encoders import POOLED
from facecdm.formats.families import FAMILIES
from facecdm.formats.imported import import_adapter
from facecdm.formats.read import Published
from facecdm.hosts.comfy.sampling.apply import apply_person
from facecdm.hosts.comfy.unet import layer_map

SIGMA, CFG = 3.0, 3.0
DIFFUSERS = (
    "ip-adapter",
    "ip-adapter-plus",
    "ip-adapter-full-face",
    "faceid",
    "faceid-plus",
    "faceid-plusv2",
    "faceid-portrait",
    "faceid-portrait-unnorm",
)
IN_SDXL = (*(family for family in DIFFUSERS if family not in ("ip-adapter-full-face", "faceid-plus")), "kolors-plus")


def adapter_of(state: dict, family: str):
    return import_adapter(Published(state["image_proj"], state["ip_adapter"], {}, Path("a.bin")), family)


def features(family: str, sizes, count: int = 1, seed: int = 7) -> tuple[Features, Features]:
    """(of `count` pictures, of an empty picture), as a vision tower and a recogniser would give them."""
    recipe, generator = FAMILIES[family].recipe, torch.Generator().manual_seed(seed)
    embedding = states = empty = None
    if recipe.embedding:
        embedding = torch.randn(count, 512, generator=generator)
        embedding = torch.nn.functional.normalize(embedding, dim=1) if recipe.embedding == "normed" else embedding
    if recipe.vision == POOLED:
        embedding = torch.randn(count, sizes.pooled, generator=generator)
    elif recipe.vision:
        width = LARGE_STATES if family == "kolors-plus" else sizes.states
        states = torch.randn(count, 257, width, generator=generator)
        empty = torch.randn(1, 257, width, generator=generator)
    shown = Features(embedding, states, shortcut=0.7)
    return shown, shown.empty(empty)


def for_diffusers(projection, shown: Features, empty: Features):
    """Features in the layout of image_embeds: negative row, positive row. FaceID Plus takes states by attribute, and a
    resampler an embedding as one state.
    """
    if hasattr(projection, "latents") and shown.states is None:
        return torch.stack([empty.embedding, shown.embedding])[:, :, None]
    if shown.embedding is None:
        return torch.stack([empty.states, shown.states])
    if shown.states is not None:
        projection.clip_embeds = torch.stack([empty.states, shown.states])
        projection.shortcut_scale = shown.shortcut
    return torch.stack([empty.embedding, shown.embedding])


def compare(
    twins,
    sizes,
    families: list[str],
    states: list[dict],
    count: int = 1,
    size: int = 8,
    strengths=(1.0, 1.0),
    check: bool = True,
) -> float:
    """Largest difference between the hosts as part of the output's largest value; `check` that the adapter acts."""
    torch.manual_seed(3)
    x = torch.randn(1, 4, size, size) * SIGMA
    text, pooled = torch.randn(2, 77, twins.context), torch.randn(1, 1280)
    model, given = twins.model, [features(family, sizes, count, seed) for seed, family in enumerate(families)]
    for family, state, (shown, empty), strength in zip(families, states, given, strengths):
        stream = FAMILIES[family].stream
        model = apply_person(
            model,
            Person(
                adapter_of(state, family),
                **{"face": None, "image": None, stream: shown},
                negative={stream: empty},
                settings={stream: Stream(strength)},
            ),
        )
    prompts = [conditioning(text[i : i + 1], pooled, height=8 * size, width=8 * size) for i in (1, 0)]
    ours = predict(model, x, SIGMA, *prompts, cfg=CFG)
    with diffusers_adapters(twins, *states) as projections:
        for processor in twins.unet.attn_processors.values():
            if hasattr(processor, "scale"):
                processor.scale = list(strengths[: len(states)])
        for family, projection in zip(families, projections):
            projection.shortcut = family == "faceid-plusv2"
        images = [for_diffusers(projection, *one) for projection, one in zip(projections, given)]
        negative, positive = predict_with_images(twins, x.expand(2, -1, -1, -1), SIGMA, text, images, pooled)
    theirs = (negative + CFG * (positive - negative))[None]
    scale = theirs.abs().max().item()
    if check:
        plain = predict(twins.model, x, SIGMA, *prompts, cfg=CFG)
        assert (plain - theirs).abs().max().item() > 1e-2 * scale, "the adapter has an effect"
    return (ours - theirs).abs().max().item() / scale


def without_lora(state: dict) -> dict:
    return state | {"ip_adapter": {key: value for key, value in state["ip_adapter"].items() if "_lora." not in key}}


@pytest.mark.parametrize("family", DIFFUSERS)
def test_a_family_in_a_small_unet(small, make_state, family):
    twins, sizes = small
    assert compare(twins, sizes, [family], [without_lora(make_state(family))]) < 1e-4


def test_several_references_side_by_side(small, make_state):
    twins, sizes = small
    assert compare(twins, sizes, ["ip-adapter-plus"], [make_state("ip-adapter-plus")], count=3) < 1e-4


def test_two_adapters_with_strengths(small, make_state):
    twins, sizes = small
    families = ["faceid", "ip-adapter-plus"]
    states = [without_lora(make_state(family, seed=seed)) for seed, family in enumerate(families)]
    assert compare(twins, sizes, families, states, strengths=(0.8, 0.4)) < 1e-4


def test_a_file_in_half_precision(small, make_state):
    twins, sizes = small
    state = make_state("ip-adapter-plus")
    half = {part: {key: value.half() for key, value in inner.items()} for part, inner in state.items()}
    assert adapter_of(half, "ip-adapter-plus").streams["image"].to_k[0].weight.dtype == torch.float16, (
        "the dtype is kept"
    )
    whole = {part: {key: value.half().float() for key, value in inner.items()} for part, inner in state.items()}
    shown, _ = features("ip-adapter-plus", sizes)
    x, text = torch.randn(1, 4, 8, 8) * SIGMA, conditioning(torch.randn(1, 77, twins.context), torch.zeros(1, 1280))
    both = [
        predict(apply_person(twins.model, Person(adapter_of(one, "ip-adapter-plus"), None, shown)), x, SIGMA, text)
        for one in (half, whole)
    ]
    torch.testing.assert_close(*both)


def known(twins, name, monkeypatch):
    monkeypatch.setitem(bases.BASES, name, bases.Base(name, layer_map(twins.model)))


@pytest.mark.slow
def test_two_families_in_full_size_sd15(in_comfy):
    """The others: benchmarks/equality.py."""
    twins = make_twins(FULL_SD15)
    off = {}
    for family in ("ip-adapter-plus", "faceid-plusv2"):
        state = published_state(family, layer_map(twins.model), SD15, lora_rank=0)
        off[family] = compare(twins, SD15, [family], [state], check=False)
    assert max(off.values()) < 1e-4, off


@pytest.mark.slow
@pytest.mark.parametrize("family", IN_SDXL)
def test_a_family_in_sdxl_of_true_widths(narrow_sdxl, monkeypatch, family):
    known(narrow_sdxl, "SDXL of few blocks", monkeypatch)
    state = published_state(family, layer_map(narrow_sdxl.model), SDXL, lora_rank=0)
    assert compare(narrow_sdxl, SDXL, [family], [state]) < 1e-4


def test_lora_families_are_those_with_a_lora():
    """UniPortrait and ConsistentID are compared in test_uniportrait.py."""
    assert set(WITH_LORA) - {"uniportrait", "consistentid"} <= set(DIFFUSERS)
