"""Decoupled attention on the own queries of a ComfyUI MODEL of Flux.1's kind, beside what else is patched into it."""

import flux
import pytest
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
from facecdm.hosts.comfy.sampling.apply import apply_person, sigma_at
from facecdm.hosts.comfy.step_weights import KEY

SIGMA = 0.7
BLOCKS = {"XLabs": 3, "InstantX": 8}  # with keys and values, in the small model


@pytest.fixture(scope="module", autouse=True)
def hooks(in_comfy):
    flux.skip_without_query_patches()


@pytest.fixture(scope="module", params=BLOCKS)
def adapter(request, model):
    shapes = xlabs(4, SMALL_FLUX, 3) if request.param == "XLabs" else instantx(SMALL_FLUX, 8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(bases.BASES, "small Flux", bases.Base("small Flux", layer_map(model)))
        return import_adapter(canonical(state_of(shapes), {}, "a.safetensors"))


def pictured(adapter, seed: int = 0, references: int = 1, **more) -> Person:
    generator = torch.Generator().manual_seed(seed)
    return Person(
        adapter, None, Features(torch.randn(references, adapter.config.image_width, generator=generator)), **more
    )


def applied(model, *people):
    for one in people:
        model = apply_person(model, one)
    return model


def test_strength_and_region(model, adapter):
    """Strength 0 and an empty mask are no-ops to the bit; a full mask is no mask."""
    x, prompt = flux.latents(), flux.prompt(model)
    plain, shown = predict(model, x, SIGMA, prompt), predict(applied(model, pictured(adapter)), x, SIGMA, prompt)
    assert (plain - shown).abs().max() > 0.01 * plain.abs().max()
    for off in (pictured(adapter, settings={"image": Stream(0.0)}), pictured(adapter, mask=torch.zeros(64, 96))):
        assert torch.equal(predict(applied(model, off), x, SIGMA, prompt), plain)
    close(predict(applied(model, pictured(adapter, mask=torch.ones(64, 96))), x, SIGMA, prompt), shown)


def test_start_and_end(model, adapter):
    x, prompt, start, end = flux.latents(), flux.prompt(model), sigma_at(model, 0.2), sigma_at(model, 0.6)
    timed = applied(model, pictured(adapter, sigma_start=start, sigma_end=end))
    for sigma, acts in ((start * 1.02, False), ((start + end) / 2, True), (end * 0.95, False)):
        assert torch.equal(predict(timed, x, sigma, prompt), predict(model, x, sigma, prompt)) is not acts


def test_pictures_of_a_batch_and_conditionings(model, adapter):
    """Each row is what it is alone: one reference per picture, prompts of different length, rows of CFG."""
    x, prompt, negative = flux.latents(batch=2), flux.prompt(model, 1), flux.prompt(model, 2, tokens=11)
    shown = pictured(adapter, references=2, per_picture=True)
    together = predict(applied(model, shown), x, SIGMA, prompt, negative, cfg=3.0)
    for i in range(2):
        alone = applied(model, Person(adapter, None, Features(shown.image.embedding[[i]])))
        close(together[[i]], predict(alone, x[[i]], SIGMA, prompt, negative, cfg=3.0), 1e-4)
    plain = predict(model, x, SIGMA, negative)
    positive = predict(applied(model, shown), x, SIGMA, prompt)
    close(together, plain + 3 * (positive - plain), 1e-4)


def test_several_people_in_any_order(model, adapter):
    x, prompt, people = flux.latents(), flux.prompt(model), [pictured(adapter, 1), pictured(adapter, 2)]
    first = predict(applied(model, *people), x, SIGMA, prompt)
    close(predict(applied(model, *people[::-1]), x, SIGMA, prompt), first)
    assert not torch.equal(first, predict(applied(model, people[0]), x, SIGMA, prompt))


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


def test_a_replaced_block_without_its_attention_gets_nothing(model, adapter):
    """A pack that reuses a block's earlier result, as TeaCache does."""
    x, prompt = flux.latents(), flux.prompt(model)
    patched = applied(model, pictured(adapter))
    for one in (model := model.clone(), patched):
        for number in range(3):
            one.set_model_patch_replace(lambda args, extra: args, "dit", "double_block", number)
        for number in range(5):
            one.set_model_patch_replace(lambda args, extra: args, "dit", "single_block", number)
    assert torch.equal(predict(patched, x, SIGMA, prompt), predict(model, x, SIGMA, prompt))


def test_beside_residual_cells(model, adapter, pulid):
    """One adapter with PuLID's face stream and this image stream gives what the two give one after the other."""
    x, prompt, face, image = flux.latents(), flux.prompt(model), person(pulid), pictured(adapter)
    both = Person(combine(pulid, adapter), face.face, image.image)
    ours = predict(applied(model, both), x, SIGMA, prompt)
    close(ours, predict(applied(model, face, image), x, SIGMA, prompt))
    assert not torch.equal(ours, predict(applied(model, face), x, SIGMA, prompt))
    assert applied(model, image).get_additional_models_with_key(KEY) == [], "no weights are used at a step"


def test_on_core_fp8_layers_it_acts_as_on_their_dequantised_weights(quantised_pair, adapter):
    x, prompt = flux.latents().bfloat16(), flux.prompt(quantised_pair[1])
    ours, wanted = (predict(applied(one, pictured(adapter)), x, SIGMA, prompt) for one in quantised_pair)
    assert not torch.equal(wanted, predict(quantised_pair[1], x, SIGMA, prompt))
    close(ours, wanted, 1e-6)


def test_chroma(adapter):
    chroma = flux.make_chroma()
    x, prompt = flux.latents(), flux.prompt(chroma)
    plain = predict(chroma, x, SIGMA, prompt)
    shown = predict(applied(chroma, pictured(adapter)), x, SIGMA, prompt)
    assert (plain - shown).abs().max() > 0.01 * plain.abs().max()


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
