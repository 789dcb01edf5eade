"""Everything that Apply FaceCDM can do on a U-Net, with residual cells in a DiT."""

import flux
import pytest
import torch
from published_flux import SMALL_FLUX, features, person
from tensors import close
from torch.nn import functional as F
from twins import predict

from facecdm.adapter.features import Features
from facecdm.adapter.person import Person, Stream
from facecdm.hosts.comfy.sampling.apply import apply_person
from facecdm.hosts.comfy.sampling.cfg_rescale import rescale_cfg

SIGMA = 0.7
HEADS = SMALL_FLUX.pulid // 128
CELLS = (0, 2, 3, 7)  # the blocks of PuLID's cells in the small model


def one_cell(pulid, index: int, tokens, x, v_factor=1.0):
    """A cell's residual and queries, without the code under test."""
    number = CELLS.index(index)
    keys, queries = pulid.streams["face"].keys[number], pulid.streams["face"].queries[number]
    q = F.linear(F.layer_norm(x, x.shape[-1:], queries.norm.weight, queries.norm.bias), queries.to_q.weight)
    normed = F.layer_norm(tokens, tokens.shape[-1:], keys.norm.weight, keys.norm.bias)
    k, v = F.linear(normed, keys.to_kv.weight).chunk(2, -1)
    split = [part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (q, k, v * v_factor)]
    out = F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)
    return F.linear(out, queries.to_out.weight), split


@pytest.mark.parametrize("size", [(8, 12), (7, 9)], ids=["whole patches", "padded"])
def test_a_mask_keeps_a_person_out_of_the_rest(model, pulid, size):
    x, prompt = flux.latents(size), flux.prompt(model)
    shown = predict(apply_person(model, person(pulid)), x, SIGMA, prompt)
    masks = torch.ones(64, 96), torch.zeros(64, 96)
    everywhere, nowhere = (apply_person(model, person(pulid, mask=mask)) for mask in masks)
    close(predict(everywhere, x, SIGMA, prompt), shown)
    assert torch.equal(predict(nowhere, x, SIGMA, prompt), predict(model, x, SIGMA, prompt))


def test_a_masks_residual_is_that_of_its_positions(model, pulid):
    mask = torch.zeros(64, 96)
    mask[:32, 40:] = 1  # the middle of a token: 8 of its 16 columns
    weight = torch.zeros(4, 6)
    weight[:2, 3:], weight[:2, 2] = 1, 0.5
    tokens, x, prompt = pulid.project(features(), None)["face"], flux.latents(), flux.prompt(model)

    def residual(index, hidden):
        if index in CELLS:
            return one_cell(pulid, index, tokens, hidden)[0] * weight.flatten()[None, :, None]

    patched = apply_person(model, person(pulid, mask=mask))
    close(predict(patched, x, SIGMA, prompt), flux.reference(model, x, SIGMA, prompt, residual))


def test_an_area_cuts_the_mask(model, pulid):
    """A conditioning for the left half, and a mask of that half: the whole of the area is masked in."""
    x, mask = flux.latents((8, 12)), torch.zeros(64, 96)
    mask[:, :48] = 1
    area = flux.prompt(model, 1, area=(8, 6, 0, 0)) + flux.prompt(model, 2, area=(8, 6, 0, 6))
    left = predict(apply_person(model, person(pulid, mask=mask)), x, SIGMA, area)
    close(left[..., :6], predict(apply_person(model, person(pulid)), x, SIGMA, area)[..., :6])
    close(left[..., 6:], predict(model, x, SIGMA, area)[..., 6:])


def test_reference_latents_get_nothing(model, pulid):
    """Kontext: the tokens of reference latents follow the picture's and are not touched, only read by its attention."""
    x, more = flux.latents(), flux.latents((6, 8), seed=4)
    tokens, prompt = pulid.project(features(), None)["face"], flux.prompt(model, reference_latents=[more])
    processed = [model.model.process_latent_in(more)]

    def residual(index, hidden):
        return one_cell(pulid, index, tokens, hidden)[0] if index in CELLS else None

    close(predict(model, x, SIGMA, prompt), flux.reference(model, x, SIGMA, prompt, None, processed))
    ours = predict(apply_person(model, person(pulid)), x, SIGMA, prompt)
    close(ours, flux.reference(model, x, SIGMA, prompt, residual, processed))


def test_true_cfg_gives_the_empty_face_to_the_negative_prompt(model, pulid):
    """The velocity of CFG 4 is made of the positive prompt's with the face, and the negative's with the empty face."""
    x, positive, negative = flux.latents(), flux.prompt(model, 1), flux.prompt(model, 2)
    shown, empty = person(pulid), person(pulid, negative=True)
    of_empty = Person(pulid, empty.negative["face"])
    mixed = predict(apply_person(model, empty), x, SIGMA, positive, negative, cfg=4.0)
    one = predict(apply_person(model, shown), x, SIGMA, positive)
    two = predict(apply_person(model, of_empty), x, SIGMA, negative)
    close(mixed, two + 4 * (one - two), 1e-4)
    plain = predict(model, x, SIGMA, negative)
    without = predict(apply_person(model, shown), x, SIGMA, positive, negative, cfg=4.0)
    close(without, plain + 4 * (one - plain), 1e-4)
    assert torch.equal(predict(apply_person(model, empty), x, SIGMA, positive), one), "CFG 1 has no negative prompt"


def test_several_conditionings_of_different_length(model, pulid):
    patched, x = apply_person(model, person(pulid)), flux.latents()
    one, two = flux.prompt(model, 1), flux.prompt(model, 2, tokens=11)
    both = predict(patched, x, SIGMA, one + two)
    close(both, (predict(patched, x, SIGMA, one) + predict(patched, x, SIGMA, two)) / 2)


def test_a_batch_is_its_pictures_one_by_one(model, pulid):
    patched, x = apply_person(model, person(pulid, negative=True)), flux.latents(batch=3)
    prompts = flux.prompt(model, 1), flux.prompt(model, 2)
    together = predict(patched, x, SIGMA, *prompts, cfg=3.0)
    for i in range(3):
        close(together[i : i + 1], predict(patched, x[i : i + 1], SIGMA, *prompts, cfg=3.0), 1e-4)


def test_one_reference_per_picture(model, pulid):
    x, prompt, shown = flux.latents(batch=3), flux.prompt(model), features(0, 2)
    together = predict(apply_person(model, Person(pulid, shown, per_picture=True)), x, SIGMA, prompt)
    for i, reference in enumerate((0, 1, 1)):
        alone = Features(shown.embedding[[reference]], tuple(state[[reference]] for state in shown.states))
        close(together[[i]], predict(apply_person(model, Person(pulid, alone)), x[[i]], SIGMA, prompt), 1e-4)


def test_weighted_references_side_by_side(model, pulid):
    """All references' tokens in one attention; a reference's weight is a factor on its values."""
    shown, x, prompt = features(0, 2), flux.latents(), flux.prompt(model)
    tokens = pulid.project(shown, None)["face"].flatten(0, 1)[None]
    factors = torch.tensor([0.5, 1.5]).repeat_interleave(32)[None, :, None]

    def residual(index, hidden):
        return one_cell(pulid, index, tokens, hidden, factors)[0] if index in CELLS else None

    patched = apply_person(model, Person(pulid, shown, settings={"face": Stream(weights=(0.5, 1.5))}))
    close(predict(patched, x, SIGMA, prompt), flux.reference(model, x, SIGMA, prompt, residual))


def test_a_curve_over_the_depth(model, pulid):
    """One factor a block of either kind; those of blocks without a cell have no effect."""
    curve, x, prompt = (0.5, 9.0, 0.0, 2.0, 9.0, 9.0, 9.0, -1.0), flux.latents(), flux.prompt(model)
    tokens = pulid.project(features(), None)["face"]

    def residual(index, hidden):
        return curve[index] * one_cell(pulid, index, tokens, hidden)[0] if index in CELLS else None

    patched = apply_person(model, person(pulid, settings={"face": Stream(curve=curve)}))
    close(predict(patched, x, SIGMA, prompt), flux.reference(model, x, SIGMA, prompt, residual))


@pytest.mark.parametrize("projection", ["feature", "token", "token_v2"])
def test_keep_prompt_removes_what_the_hidden_state_has_already(model, pulid, projection):
    """κ of the residual along the hidden state: per position and head, over all positions, or as the latter but less
    where a position attends to the first five tokens.
    """
    kappa, x, prompt = 0.6, flux.latents(), flux.prompt(model)
    tokens = pulid.project(features(), None)["face"]

    def along(own, onto, axis):
        return (own * onto).sum(axis, keepdim=True) / (onto * onto).sum(axis, keepdim=True) * onto

    def residual(index, hidden):
        if index not in CELLS:
            return None
        own, (q, k, _) = one_cell(pulid, index, tokens, hidden)
        if projection == "feature":
            heads = (part.unflatten(-1, (2, -1)) for part in (own, hidden))
            return own - kappa * along(*heads, -1).flatten(2)
        shared = along(own, hidden, 1)
        if projection == "token_v2":
            mass = (q @ k.transpose(-2, -1)).softmax(-1)[..., :5].sum(-1).mean(1)[..., None]
            shared = shared * (1 - mass)
        return own - kappa * shared

    settings = {"face": Stream(kappa=kappa, projection=projection)}
    ours = predict(apply_person(model, person(pulid, settings=settings)), x, SIGMA, prompt)
    close(ours, flux.reference(model, x, SIGMA, prompt, residual), 1e-4)
    with pytest.raises(AssertionError):
        close(ours, predict(apply_person(model, person(pulid)), x, SIGMA, prompt), 1e-3)


def test_cfg_rescale_keeps_the_conditional_predictions_contrast(model):
    """In a flow model it acts on the velocity."""
    x, prompts = flux.latents(), (flux.prompt(model, 1), flux.prompt(model, 2))
    conditional = predict(model, x, SIGMA, prompts[0])
    guided = predict(model, x, SIGMA, *prompts, cfg=6.0)
    half = predict(rescale_cfg(model, 0.5), x, SIGMA, *prompts, cfg=6.0)
    wanted = guided * (0.5 + 0.5 * conditional.std((1, 2, 3)) / guided.std((1, 2, 3)))
    close(half, wanted, 1e-4)


def test_an_fp8_base_computes_in_its_own_dtype(in_comfy, adapters):
    quantised = flux.make_flux(torch.float8_e4m3fn, computed_in=torch.bfloat16)
    x, prompt = flux.latents().bfloat16(), flux.prompt(quantised)
    plain = predict(quantised, x, SIGMA, prompt)
    for adapter, shown in zip(adapters, (person(adapters[0]), Person(adapters[1], Features(torch.randn(1, 512))))):
        ours = predict(apply_person(quantised, shown), x, SIGMA, prompt)
        assert torch.isfinite(ours).all() and (ours - plain).abs().max() > 0.01 * plain.abs().max()
        assert {value.dtype for value in adapter.streams["face"].queries.parameters()} == {torch.float32}


def test_on_core_fp8_layers_it_acts_as_on_their_dequantised_weights(quantised_pair, adapters):
    quantised, dense = quantised_pair
    fp8 = [name for name, value in quantised.model.state_dict().items() if value.dtype == torch.float8_e4m3fn]
    assert len(fp8) > 8, "the blocks' matrices"
    x, prompt = flux.latents().bfloat16(), flux.prompt(dense)
    plain = predict(dense, x, SIGMA, prompt)
    for shown in (person(adapters[0]), Person(adapters[1], Features(torch.randn(1, 512)))):
        ours, wanted = (predict(apply_person(model, shown), x, SIGMA, prompt) for model in quantised_pair)
        assert (wanted - plain).abs().max() > 0.01 * plain.abs().max()
        close(ours, wanted, 1e-6)
