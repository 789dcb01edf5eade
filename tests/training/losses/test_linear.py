"""The linear recogniser distinguishes people, and its loss has the minimum of the diffusion loss."""

from dataclasses import replace

import pytest
import torch
from step_stubs import ManyPeople, StubDenoiser, make_step_data
from torch.nn import functional as F

from facecdm.errors import FaceCDMError
from facecdm.training.losses import LinearIdentityLoss, LinearRecogniser
from facecdm.training.losses.arcface import align, upright
from facecdm.training.losses.linear import decoded, linear_decoder


@pytest.fixture(scope="module")
def people() -> ManyPeople:
    return ManyPeople()


@pytest.fixture(scope="module")
def linear(people) -> LinearRecogniser:
    return LinearRecogniser.fit(StubDenoiser(), people)


def step_data(people: ManyPeople, t: list[int], clean: torch.Tensor, prediction: str = "v", **values):
    rows = people.load(list(range(0, 3 * len(t), 3)))
    return replace(make_step_data(t, StubDenoiser(prediction), rows), clean=clean, **values)


def test_it_recognises_people_that_it_was_not_fitted_to():
    everyone = ManyPeople(90)
    fitted = ManyPeople(90)
    fitted.buckets = [list(range(180))]
    fitted.people = dict(list(fitted.people.items())[:60])
    estimated = LinearRecogniser.fit(StubDenoiser(), fitted)(everyone.rows.latents, everyone.rows.keypoints)
    first, second = F.normalize(estimated[180::3], dim=1), F.normalize(estimated[181::3], dim=1)
    assert ((first @ second.T).argmax(1) == torch.arange(30)).float().mean() > 0.9  # chance: 1 in 30


def test_the_same_data_give_the_same_bits(people, linear):
    again = LinearRecogniser.fit(StubDenoiser(), people)
    assert torch.equal(again.weights, linear.weights) and torch.equal(again.decoder, linear.decoder)


def test_a_constant_in_all_pictures_and_embeddings_does_not_matter(people, linear):
    shifted = ManyPeople()
    shifted.rows = replace(shifted.rows, latents=shifted.rows.latents + 2)
    torch.testing.assert_close(LinearRecogniser.fit(StubDenoiser(), shifted).weights, linear.weights, atol=1e-3, rtol=0)


def test_the_decoder_is_the_nearest_linear_one(linear):
    """The stub's decoder is the identity."""
    torch.testing.assert_close(linear.decoder[:, :, 0, 0], torch.eye(3), atol=1e-3, rtol=0)


def test_pictures_need_not_be_square():
    """The stub's decoder doubles each side; the linear one gives the same pixels."""

    class Doubling(StubDenoiser):
        def decode(self, latents):
            return F.interpolate(latents.float(), scale_factor=2)

    oblong = ManyPeople(size=24)
    oblong.rows = replace(oblong.rows, latents=oblong.rows.latents[..., :12].contiguous())
    latents = oblong.rows.latents[:2]
    pixels = decoded(latents, linear_decoder(Doubling(), oblong))
    torch.testing.assert_close(pixels, Doubling().decode(latents), atol=0.01, rtol=0)


def test_missing_the_average_face_costs_one(people, linear):
    around = people.rows.latents - people.rows.latents.mean(0)
    assert linear(around, people.rows.keypoints).square().sum(1).mean() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("t", [20, 500, 990])
def test_it_is_zero_for_the_exact_picture_and_quadratic(people, linear, t):
    rows = people.load([0, 3])
    loss, wrong = LinearIdentityLoss(linear), people.load([6, 9]).latents - rows.latents
    values = [float(loss(step_data(people, [t, t], rows.latents + factor * wrong))) for factor in (0, 1, 2)]
    assert values[0] == 0 and values[1] > 0.1
    assert values[2] == pytest.approx(4 * values[1], rel=1e-4)


def test_pure_noise_does_not_break_it(people, linear):
    """At the last timestep ε's clean latents are divided by almost zero."""
    rows = people.load([0, 3])
    clean = rows.latents + 1e6 * torch.randn(rows.latents.shape, generator=torch.Generator().manual_seed(0))
    assert float(LinearIdentityLoss(linear)(step_data(people, [999, 999], clean, "epsilon"))) < 1e6


def test_its_minimum_is_the_mean_of_possible_pictures(people, linear):
    """As for the diffusion loss, the mean is the best prediction for several possible pictures."""
    possible = people.load([0, 3, 6]).latents
    points = people.load([0, 3, 6]).keypoints
    guess = possible.mean(0, keepdim=True).requires_grad_()
    linear(guess - possible, points).square().sum().backward()
    at_the_edge = possible[:1].clone().requires_grad_()
    linear(at_the_edge - possible, points).square().sum().backward()
    assert guess.grad.abs().max() < 1e-4 * at_the_edge.grad.abs().max()


def test_rows_without_a_face_count_zero(people, linear):
    rows = people.load([0, 3])
    loss = LinearIdentityLoss(linear)
    wrong = rows.latents.flip(0)
    whole = loss.per_row(step_data(people, [300, 300], wrong))
    dropped = loss.per_row(step_data(people, [300, 300], wrong, face_on=torch.tensor([1.0, 0.0])))
    assert whole.all() and dropped.tolist() == [whole[0].item(), 0]
    unseen = replace(step_data(people, [300, 300], wrong), rows=replace(rows, box=torch.zeros(2, 4)))
    assert loss(unseen) == 0


def test_few_people_are_refused():
    with pytest.raises(FaceCDMError, match="at least 32 people and this one has 5"):
        LinearRecogniser.fit(StubDenoiser(), ManyPeople(5))


def test_upright_equals_align(people):
    rows = people.load([0, 3])
    shown = rows.latents.clamp(-1, 1)
    torch.testing.assert_close(upright(shown + 1, rows.keypoints) - 1, align(rows.latents, rows.keypoints))
