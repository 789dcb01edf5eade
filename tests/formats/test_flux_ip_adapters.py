"""IP-Adapters for Flux.1, which read the base model's own queries, against diffusers and a reference."""

import copy
from pathlib import Path

import flux
import pytest
import torch
from flux_twins import diffusers_prediction, make_twins
from published_flux import SMALL_FLUX, FluxSizes, instantx, state_of, xlabs
from torch.nn import functional as F
from twins import predict

from facecdm import bases
from facecdm.adapter.features import Features
from facecdm.adapter.person import Person, Stream
from facecdm.errors import Mismatch, UnsupportedModel
from facecdm.formats.features import features
from facecdm.formats.imported import import_adapter
from facecdm.formats.read import canonical
from facecdm.formats.sources import Sources
from facecdm.formats.vision import VisionOutput
from facecdm.hosts.comfy.base_model import layer_map
from facecdm.hosts.comfy.sampling.apply import apply_person
from facecdm.hosts.diffusers.dit import DiffusersDit
from facecdm.hosts.diffusers.sampling import DiffusersHost, Span

SIGMA, STRENGTH = 0.7, 0.8


def load(state: dict, model):
    """An adapter for a base model that is known by name for the time of this call."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(bases.BASES, "small Flux", bases.Base("small Flux", layer_map(model)))
        return import_adapter(canonical(state, {}, Path("a.safetensors")))


def person(adapter, pooled, strength: float = STRENGTH, **more) -> Person:
    return Person(adapter, None, Features(pooled), settings={"image": Stream(strength)}, **more)


def pooled_embedding(width: int, seed: int = 3):
    return torch.randn(1, width, generator=torch.Generator().manual_seed(seed))


def difference(ours, theirs, plain) -> float:
    """Largest difference to the reference, as part of its largest value; the adapter must have an effect."""
    assert (plain - theirs).abs().max() > 0.01 * theirs.abs().max(), "the adapter has an effect"
    return float((ours - theirs).abs().max() / theirs.abs().max())


# ---- XLabs, against diffusers ----


def for_diffusers(state: dict) -> dict:
    """The layout that diffusers' FluxIPAdapterMixin gives a file of XLabs before it loads it."""
    parts = {"image_proj": {}, "ip_adapter": {}}
    for key, value in state.items():
        part = "image_proj" if key.startswith("ip_adapter_proj_model.") else "ip_adapter"
        name = key.split(".", 1)[1].replace("processor.", "").replace("ip_adapter_double_stream_", "to_")
        parts[part][name.replace("_proj.", "_ip.") if part == "ip_adapter" else name] = value
    return parts


def in_diffusers(transformer, shown: Person, x, prompt):
    """The velocity of our diffusers host; the transformer has no hook of ours afterwards."""
    host = DiffusersDit(transformer)
    with torch.no_grad(), host.people([Span(shown, 0, len(x))], torch.tensor([SIGMA]), x.shape[-2:]):
        ours = diffusers_prediction(transformer, x, SIGMA, prompt)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in transformer.modules())
    return ours


@pytest.mark.parametrize(("tokens", "context"), [(4, 40), (16, 4096)], ids=["v1", "v2"])
@pytest.mark.parametrize("host", ["ComfyUI", "diffusers"])
def test_xlabs(in_comfy, host, tokens, context):
    """diffusers knows v2 by its width alone, so that test has Flux.1's text width."""
    if host == "ComfyUI":
        flux.skip_without_query_patches()
    model, transformer = make_twins(context)
    sizes = FluxSizes(width=48, text=context, clip=12)
    state, pooled = state_of(xlabs(tokens, sizes, 3)), pooled_embedding(12)
    x, prompt, shown = flux.latents(), flux.prompt(model), person(load(state, model), pooled)
    plain = diffusers_prediction(transformer, x, SIGMA, prompt)
    assert (predict(model, x, SIGMA, prompt) - plain).abs().max() < 1e-4 * plain.abs().max()
    ours = (
        predict(apply_person(model, shown), x, SIGMA, prompt)
        if host == "ComfyUI"
        else in_diffusers(transformer, shown, x, prompt)
    )
    transformer._load_ip_adapter_weights([for_diffusers(state)], low_cpu_mem_usage=False)
    for processor in transformer.attn_processors.values():
        if hasattr(processor, "scale"):
            processor.scale = [STRENGTH]
    theirs = diffusers_prediction(transformer, x, SIGMA, prompt, pooled[None])
    assert difference(ours, theirs, plain) < 1e-4


# ---- InstantX, against a reference ----


def instantx_reference(model, state: dict, pooled, x, conditioning, strength: float = STRENGTH):
    """The velocity with the attention of Shakker-Labs' attention_processor.py in every block."""
    heads, width = model.model.diffusion_model.num_heads, model.model.diffusion_model.params.context_in_dim
    hidden = F.gelu(pooled @ state["image_proj.proj.0.weight"].T + state["image_proj.proj.0.bias"])
    flat = hidden @ state["image_proj.proj.2.weight"].T + state["image_proj.proj.2.bias"]
    norm = state["image_proj.norm.weight"], state["image_proj.norm.bias"]
    tokens = F.layer_norm(flat.unflatten(-1, (-1, width)), (width,), *norm)

    def keys_or_values(part: str, number: int):
        made = (tokens @ state[f"ip_adapter.{number}.to_{part}_ip.weight"].T).unflatten(-1, (heads, -1)).transpose(1, 2)
        return made / (made.square().mean(-1, keepdim=True) + 1e-5).sqrt()

    def added(number: int, queries):
        own = F.scaled_dot_product_attention(queries, *(keys_or_values(part, number) for part in "kv"))
        return strength * own.transpose(1, 2).flatten(2)

    return flux.reference_with_attention(model, x, SIGMA, conditioning, added)


def compare_instantx(model, sizes: FluxSizes, tokens: int = 128) -> float:
    blocks = len(layer_map(model).layers)
    state, pooled = state_of(instantx(sizes, blocks, tokens)), pooled_embedding(sizes.so400m)
    x, prompt = flux.latents(), flux.prompt(model)
    ours = predict(apply_person(model, person(load(state, model), pooled)), x, SIGMA, prompt)
    plain = predict(model, x, SIGMA, prompt)
    return difference(ours, instantx_reference(model, state, pooled, x, prompt), plain)


def test_instantx(in_comfy):
    flux.skip_without_query_patches()
    assert compare_instantx(flux.make_flux(), SMALL_FLUX) < 1e-4


def test_instantx_in_diffusers(in_comfy):
    """Two people, of whom one acts on one picture of the batch alone, are the sum of their attentions."""
    model, transformer = make_twins(SMALL_FLUX.text)
    state, pooled = state_of(instantx(SMALL_FLUX, 5)), pooled_embedding(SMALL_FLUX.so400m)
    x, prompt, adapter = flux.latents(batch=2), flux.prompt(model), load(state, model)
    plain, whole = (
        diffusers_prediction(transformer, x, SIGMA, prompt),
        instantx_reference(model, state, pooled, x, prompt),
    )
    assert difference(in_diffusers(transformer, person(adapter, pooled), x, prompt), whole, plain) < 1e-4
    half = person(adapter, pooled, STRENGTH / 2)
    host = DiffusersDit(transformer)
    with torch.no_grad(), host.people([Span(half, 0, 2), Span(half, 1, 1)], torch.tensor([SIGMA]), x.shape[-2:]):
        ours = diffusers_prediction(transformer, x, SIGMA, prompt)
    assert difference(ours[1:], whole[1:], plain[1:]) < 1e-4
    assert difference(ours[:1], instantx_reference(model, state, pooled, x[:1], prompt, STRENGTH / 2), plain[:1]) < 1e-4


def test_options_of_the_hosts_agree(in_comfy):
    """Masks, curves, κ and reference weights, for both kinds of adapters."""
    flux.skip_without_query_patches()
    model, transformer = make_twins(SMALL_FLUX.text)
    x, prompt, left = flux.latents(), flux.prompt(model), torch.zeros(64, 96)
    left[:, :40] = 1
    for shapes in (xlabs(4, SMALL_FLUX, 3), instantx(SMALL_FLUX, 5)):
        adapter = load(state_of(shapes), model)
        setting = Stream(0.8, (1.0, 0.5, 2.0, 0.0, 0.7), kappa=0.4, weights=(0.5, 2.0))
        pooled = torch.cat([pooled_embedding(adapter.config.image_width, seed) for seed in (3, 4)])
        shown = Person(adapter, None, Features(pooled), settings={"image": setting}, mask=left)
        plain, ours = predict(model, x, SIGMA, prompt), predict(apply_person(model, shown), x, SIGMA, prompt)
        assert difference(in_diffusers(transformer, shown, x, prompt), ours, plain) < 1e-4


def test_an_adapter_for_another_base_is_refused_when_it_is_applied(in_comfy, small_sd15):
    model, transformer = make_twins(SMALL_FLUX.text)
    shown = person(load(state_of(xlabs(4, SMALL_FLUX, 3)), model), pooled_embedding(SMALL_FLUX.clip))
    for host in (DiffusersHost(copy.deepcopy(small_sd15.unet)), DiffusersDit(make_twins(32)[1])):
        with pytest.raises(Mismatch, match="made for DiT of 5 blocks.*, and the base model is"):
            with host.people([Span(shown, 0, 1)], torch.tensor([SIGMA]), (8, 8)):
                raise AssertionError("it was applied")


@pytest.mark.slow
def test_instantx_at_flux_own_widths(in_comfy):
    flux.skip_without_query_patches()
    assert compare_instantx(flux.make_flux(**flux.NARROW), FluxSizes(), 8) < 1e-4


# ---- both ----


@pytest.fixture(scope="module")
def model(in_comfy):
    return flux.make_flux()


@pytest.fixture(scope="module", params=["XLabs", "InstantX"])
def adapter(request, model):
    shapes = xlabs(4, SMALL_FLUX, 3) if request.param == "XLabs" else instantx(SMALL_FLUX, 8)
    return load(state_of(shapes), model)


@pytest.fixture
def shown(adapter):
    return pooled_embedding(adapter.config.image_width)


def test_an_older_comfyui_is_refused_with_the_version(model, adapter, shown, monkeypatch):
    monkeypatch.setattr("comfyui_version.__version__", "0.28.1")
    with pytest.raises(UnsupportedModel, match=r"IP-Adapter needs ComfyUI 0\.29 or newer, and this is 0\.28\.1"):
        apply_person(model, person(adapter, shown))


class Tower:
    """A made-up vision tower: its pooled embedding depends on the first picture's mean alone."""

    def __init__(self, width: int):
        self.width = width

    def encode(self, pictures) -> VisionOutput:
        pooled = pictures.mean((1, 2, 3))[:, None] + torch.arange(self.width)
        return VisionOutput(pooled, torch.zeros(len(pictures), 2, 8))

    def encode_empty(self):
        raise AssertionError("these families have no empty picture")


def test_what_the_negative_prompt_gets(adapter):
    """XLabs': a black picture's tokens; InstantX': nothing; both: those of a connected negative image."""
    tower, picture = Tower(adapter.config.image_width), torch.rand(1, 64, 64, 3)
    xlabs_family = adapter.config.parts["image"].family.key == "xlabs"
    prepared = features(adapter, Sources(clip_vision=tower, image=picture))
    assert torch.equal(prepared.image.embedding, tower.encode(picture).pooled)
    black = {"image": tower.encode(torch.zeros(1, 64, 64, 3)).pooled} if xlabs_family else {}
    assert {name: value.embedding.tolist() for name, value in prepared.negative.items()} == {
        name: value.tolist() for name, value in black.items()
    }
    other = torch.rand(1, 64, 64, 3)
    prepared = features(adapter, Sources(clip_vision=tower, image=picture, negative_image=other))
    assert torch.equal(prepared.negative["image"].embedding, tower.encode(other).pooled)


def test_a_file_for_other_blocks_is_refused(model):
    state = state_of(instantx(SMALL_FLUX, 7))
    wanted = "needs a DiT of width 48 and text width 40 with 7 blocks; FaceCDM knows"
    with pytest.raises(UnsupportedModel, match=wanted):
        load(state, model)
