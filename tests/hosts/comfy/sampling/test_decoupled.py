"""Decoupled attention on the own queries of a DiT in ComfyUI, beside what else is patched into it."""

import logging

import flux
import pytest
import sd35
import torch
from counting import ATTENTION, COPIES, LINEAR, SYNCS, operations, total
from published_flux import SMALL_FLUX, instantx, person, state_of, xlabs
from tensors import close
from twins import predict

from facecdm import bases
from facecdm.adapter.features import Features
from facecdm.adapter.person import Person, Stream
from facecdm.formats.imported import combine, import_adapter
from facecdm.formats.read import canonical
from facecdm.hosts.comfy.base_model import layer_map
from facecdm.hosts.comfy.sampling.apply import apply_person
from facecdm.hosts.comfy.sampling.times import sigma_at
from facecdm.hosts.comfy.step_weights import KEY

SIGMA = 0.7
BLOCKS = {"XLabs": 3, "InstantX": 8, "SD3.5": 3}  # with keys and values, in the small models
SHAPES = {
    "XLabs": lambda: xlabs(4, SMALL_FLUX, 3),
    "InstantX": lambda: instantx(SMALL_FLUX, 8),
    "SD3.5": sd35.adapter_shapes,
}
flux_alone = pytest.mark.parametrize("kind", ["XLabs", "InstantX"], indirect=True, scope="module")


@pytest.fixture(scope="module", params=BLOCKS)
def kind(request, in_comfy):
    if request.param != "SD3.5":
        flux.skip_without_query_patches()
    return request.param


@pytest.fixture(scope="module")
def base(kind, model):
    return sd35.make_model() if kind == "SD3.5" else model


@pytest.fixture(scope="module")
def adapter(kind, base):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(bases.BASES, "small", bases.Base("small", layer_map(base)))
        return import_adapter(canonical(state_of(SHAPES[kind]()), {}, "a.safetensors"))


def pictured(adapter, seed: int = 0, references: int = 1, **more) -> Person:
    generator, width = torch.Generator().manual_seed(seed), adapter.config.image_width
    if adapter.streams["image"].timed:
        states = torch.randn(references, 9, width, generator=generator)
        return Person(adapter, None, Features(states=states), **more)
    return Person(adapter, None, Features(torch.randn(references, width, generator=generator)), **more)


def applied(model, *people):
    for one in people:
        model = apply_person(model, one)
    return model


def test_strength_and_region(base, adapter):
    """Strength 0 and an empty mask are no-ops to the bit; a full mask is no mask."""
    x, prompt = flux.latents(), flux.prompt(base)
    plain, shown = predict(base, x, SIGMA, prompt), predict(applied(base, pictured(adapter)), x, SIGMA, prompt)
    assert (plain - shown).abs().max() > 0.01 * plain.abs().max()
    for off in (pictured(adapter, settings={"image": Stream(0.0)}), pictured(adapter, mask=torch.zeros(64, 96))):
        assert torch.equal(predict(applied(base, off), x, SIGMA, prompt), plain)
    close(predict(applied(base, pictured(adapter, mask=torch.ones(64, 96))), x, SIGMA, prompt), shown)


def test_start_and_end(base, adapter):
    x, prompt, sampling = flux.latents(), flux.prompt(base), base.get_model_object("model_sampling")
    start, end = sigma_at(sampling, 0.2), sigma_at(sampling, 0.6)
    timed = applied(base, pictured(adapter, sigma_start=start, sigma_end=end))
    for sigma, acts in ((start * 1.02, False), ((start + end) / 2, True), (end * 0.95, False)):
        assert torch.equal(predict(timed, x, sigma, prompt), predict(base, x, sigma, prompt)) is not acts


def test_pictures_of_a_batch_and_conditionings(base, adapter):
    """Each row is what it is alone: one reference per picture, prompts of different length, rows of CFG."""
    x, prompt, negative = flux.latents(batch=2), flux.prompt(base, 1), flux.prompt(base, 2, tokens=11)
    shown = pictured(adapter, references=2, per_picture=True)
    together = predict(applied(base, shown), x, SIGMA, prompt, negative, cfg=3.0)
    for i in range(2):
        alone = applied(base, Person(adapter, None, shown.image._each(lambda value, i=i: value[[i]])))
        close(together[[i]], predict(alone, x[[i]], SIGMA, prompt, negative, cfg=3.0), 1e-4)
    plain = predict(base, x, SIGMA, negative)
    positive = predict(applied(base, shown), x, SIGMA, prompt)
    close(together, plain + 3 * (positive - plain), 1e-4)


def test_several_people_in_any_order(base, adapter):
    x, prompt, people = flux.latents(), flux.prompt(base), [pictured(adapter, 1), pictured(adapter, 2)]
    first = predict(applied(base, *people), x, SIGMA, prompt)
    close(predict(applied(base, *people[::-1]), x, SIGMA, prompt), first)
    assert not torch.equal(first, predict(applied(base, people[0]), x, SIGMA, prompt))


@flux_alone
def test_tokens_of_reference_latents_get_nothing(model, adapter):
    """Kontext: they and the text leave the first block as without an adapter."""
    prompt, seen, patched = flux.prompt(model, reference_latents=[flux.latents((6, 8), seed=4)]), [], model.clone()

    def second_block(args, extra):
        seen.append({key: args[key].clone() for key in ("img", "txt")})
        return extra["original_block"](args)

    patched.set_model_patch_replace(second_block, "dit", "double_block", 1)
    for one in (patched, applied(patched, pictured(adapter))):
        predict(one, flux.latents(), SIGMA, prompt)
    plain, ours = seen
    count = 24  # tokens of the picture
    assert torch.equal(ours["txt"], plain["txt"]) and torch.equal(ours["img"][:, count:], plain["img"][:, count:])
    assert ours["img"].shape[1] == count + 12 and not torch.equal(ours["img"], plain["img"])


@flux_alone
def test_other_packs_patches_are_kept(model, adapter):
    """Another pack's patches, put there before or after Apply FaceCDM, are called; what they keep does not change."""
    x, prompt, calls, kept = flux.latents(), flux.prompt(model), [], []

    def queries(q, k, v, **others):
        calls.append(q.shape)
        return {}

    def output(attention, extra_options):
        kept.append((attention, attention.clone()))
        return attention

    def with_theirs(patched):
        patched = patched.clone()
        patched.set_model_patch(queries, "attn1_patch")
        patched.set_model_patch(output, "attn1_output_patch")
        return patched

    alone = predict(applied(model, pictured(adapter)), x, SIGMA, prompt)
    for patched in (with_theirs(applied(model, pictured(adapter))), applied(with_theirs(model), pictured(adapter))):
        assert torch.equal(predict(patched, x, SIGMA, prompt), alone)
    assert len(calls) == len(kept) == 2 * 8
    assert all(torch.equal(now, then) for now, then in kept)


def test_a_replaced_block_without_its_attention_gets_nothing(base, adapter):
    """A pack that reuses a block's earlier result, as TeaCache does."""
    x, prompt = flux.latents(), flux.prompt(base)
    patched = applied(base, pictured(adapter))
    for one in (base := base.clone(), patched):
        for number in range(3):
            one.set_model_patch_replace(lambda args, extra: args, "dit", "double_block", number)
        for number in range(5):
            one.set_model_patch_replace(lambda args, extra: args, "dit", "single_block", number)
    assert torch.equal(predict(patched, x, SIGMA, prompt), predict(base, x, SIGMA, prompt))


@flux_alone
def test_a_forward_pass_without_the_patches_is_warned_of_once(model, adapter, caplog):
    """ComfyUI-TeaCache's is of an earlier ComfyUI."""
    from comfy.patcher_extension import WrappersMP

    def older(executor, *args, **kwargs):
        (options,) = (one for one in (*args, kwargs.get("transformer_options")) if isinstance(one, dict))
        options["patches"] = {}
        return executor(*args, **kwargs)

    x, prompt, patched = flux.latents(), flux.prompt(model), applied(model, pictured(adapter))
    with caplog.at_level(logging.WARNING):
        predict(patched, x, SIGMA, prompt)
        assert not caplog.text
        patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "older", older)
        assert torch.equal(predict(patched, x, SIGMA, prompt, times=3), predict(model, x, SIGMA, prompt))
    assert caplog.text.count("leaves out the patches on its attention") == 1


@flux_alone
def test_beside_residual_cells(model, adapter, pulid):
    """One adapter with PuLID's face stream and this image stream gives what the two give one after the other."""
    x, prompt, face, image = flux.latents(), flux.prompt(model), person(pulid), pictured(adapter)
    both = Person(combine(pulid, adapter), face.face, image.image)
    ours = predict(applied(model, both), x, SIGMA, prompt)
    close(ours, predict(applied(model, face, image), x, SIGMA, prompt))
    assert not torch.equal(ours, predict(applied(model, face), x, SIGMA, prompt))
    assert applied(model, image).get_additional_models_with_key(KEY) == [], "no weights are used at a step"


@flux_alone
def test_on_core_fp8_layers_it_acts_as_on_their_dequantised_weights(quantised_pair, adapter):
    x, prompt = flux.latents().bfloat16(), flux.prompt(quantised_pair[1])
    ours, wanted = (predict(applied(one, pictured(adapter)), x, SIGMA, prompt) for one in quantised_pair)
    assert not torch.equal(wanted, predict(quantised_pair[1], x, SIGMA, prompt))
    close(ours, wanted, 1e-6)


@flux_alone
def test_chroma(adapter):
    chroma = flux.make_chroma()
    x, prompt = flux.latents(), flux.prompt(chroma)
    plain = predict(chroma, x, SIGMA, prompt)
    shown = predict(applied(chroma, pictured(adapter)), x, SIGMA, prompt)
    assert (plain - shown).abs().max() > 0.01 * plain.abs().max()


@flux_alone
def test_the_cost_of_a_call(model, adapter, monkeypatch):
    """An attention a block; no linear layer, no host sync, nothing of the picture, no copy of the hidden states."""
    import comfy.ldm.modules.attention as attention

    monkeypatch.setattr(attention, "optimized_attention", attention.attention_pytorch)
    prompt, negative = flux.prompt(model, 1), flux.prompt(model, 2)
    plain = operations(model, prompt, negative, channels=16)
    counts = operations(applied(model, pictured(adapter)), prompt, negative, channels=16)
    blocks = len(adapter.streams["image"].at)
    assert blocks == BLOCKS["XLabs" if blocks == 3 else "InstantX"]
    assert total(counts, ATTENTION) - total(plain, ATTENTION) == blocks
    for names in (LINEAR, SYNCS, COPIES):
        assert total(counts, names) == total(plain, names)
