"""The identity loss changes a real picture toward another person, and has no gradients elsewhere."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from step_stubs import ManyPeople, StubDenoiser, make_rows, make_step_data
from torch import nn

from facecdm.adapter.config import AdapterConfig
from facecdm.adapter.location import FaceLocation
from facecdm.adapter.model import TripletAdapter
from facecdm.adapter.reference_batch import ReferenceBatch
from facecdm.faces.analyzer import open_pack
from facecdm.training.losses import (
    ArcFace,
    FewStepIdentityLoss,
    IdentityLoss,
    IdentitySettings,
    LossInputs,
    NegativeBank,
    person_means,
)
from facecdm.training.losses.few_steps import predict_again
from facecdm.training.losses.loss import centred
from facecdm.training.rows import Prompt
from facecdm.training.stages import Stage

SIZE = 256


@pytest.fixture(scope="module")
def folder(face_models) -> Path:
    return face_models / "models" / "insightface"


@pytest.fixture(scope="module")
def recogniser(folder) -> ArcFace:
    return ArcFace(folder / "models" / "buffalo_s" / "w600k_mbf.onnx")


@pytest.fixture(scope="module")
def photo(folder, faceworld_val):
    """A photo of FaceWorld → (pixels [1, 3, 256, 256], key points [1, 5, 2], raw embedding [1, 512])."""
    analyzer = open_pack([folder], "buffalo_s", "CPU")

    def read(identity: str, view: int = 0):
        picture = np.asarray(Image.open(faceworld_val / identity / f"{view:02}.webp").convert("RGB"))
        bgr = np.ascontiguousarray(picture[..., ::-1])
        face = analyzer.detect(bgr, 640, 0.5)[0]
        return (
            torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1,
            torch.from_numpy(face.keypoints)[None] / SIZE,
            torch.from_numpy(analyzer.embed(bgr, face)[0])[None],
        )

    return read


@pytest.fixture(scope="module")
def people(photo):
    """Two people of FaceWorld."""
    return photo("0005"), photo("0006")


class FixedPicture(nn.Module):
    """Predicts the noise that implies `picture` for any noisy latents; the picture is trained."""

    def __init__(self, picture: torch.Tensor, denoiser: StubDenoiser, t: int):
        super().__init__()
        self.picture = nn.Parameter(picture.clone())
        self.a, self.s = denoiser.signal[t], denoiser.noise[t]

    def forward(self, noisy):
        return (noisy - self.a * self.picture) / self.s


class PictureDenoiser(StubDenoiser):
    """Its `net` holds the pictures [B, 3, H, W] that every prediction implies."""

    def __init__(self, pictures: torch.Tensor, prediction: str = "epsilon"):
        net = nn.Module()
        net.pictures = nn.Parameter(pictures.clone())
        super().__init__(prediction, net=net)
        self.calls = []

    def predict(self, noisy, t, prompt, people=None, control=None, watch=None):
        self.calls.append((t.tolist(), torch.is_grad_enabled()))
        a, s = (table[t].view(-1, 1, 1, 1) for table in (self.signal, self.noise))
        epsilon = (noisy - a * self.net.pictures[: len(noisy)]) / s
        return epsilon if self.prediction == "epsilon" else (a * noisy - self.net.pictures[: len(noisy)]) / s


@pytest.fixture
def painting(people):
    """A denoiser that predicts the first person at t = 200, and rows that want the second."""
    denoiser = StubDenoiser()
    (pixels, points, _), (_, _, wanted) = people
    denoiser.net = FixedPicture(pixels, denoiser, 200)
    return denoiser, make_rows(1, SIZE, latents=pixels, keypoints=points, face=wanted)


@pytest.mark.parametrize("contrast", [False, True])
def test_gradient_descent_turns_the_picture_into_another_person(painting, people, recogniser, folder, contrast):
    denoiser, rows = painting
    (pixels, points, own), (_, _, wanted) = people
    bank = NegativeBank(own, torch.tensor([7])) if contrast else None
    loss = IdentityLoss(recogniser, bank=bank)
    optimiser = torch.optim.Adam(denoiser.net.parameters(), 0.01)
    values = []
    for step in range(12):
        value = loss(make_step_data([200], denoiser, rows, seed=step))
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        values.append(value.item())
    assert values[-1] < values[0] - 0.4
    # InsightFace, which the loss does not use, recognises the other person in a nearly equal picture
    painted = denoiser.net.picture.detach()
    assert (painted - pixels).abs().max() < 0.13
    picture = ((painted[0].permute(1, 2, 0).numpy() + 1) * 127.5).clip(0, 255).round().astype(np.uint8)
    analyzer = open_pack([folder], "buffalo_s", "CPU")
    bgr = np.ascontiguousarray(picture[..., ::-1])
    embedding = torch.from_numpy(analyzer.embed(bgr, analyzer.detect(bgr, 640, 0.5)[0])[0])
    assert (
        torch.cosine_similarity(embedding, wanted[0], dim=0) > torch.cosine_similarity(embedding, own[0], dim=0) + 0.1
    )


def test_value_is_one_minus_cosine(painting, people, recogniser):
    denoiser, rows = painting
    (_, _, own), (_, _, wanted) = people
    value = IdentityLoss(recogniser)(make_step_data([200], denoiser, rows)).item()
    assert value == pytest.approx(1 - torch.cosine_similarity(own, wanted).item(), abs=5e-3)
    mean = centred((own / own.norm() + wanted / wanted.norm()) / 2, None)[0] * 0.3
    value = IdentityLoss(recogniser, mean=mean)(make_step_data([200], denoiser, rows)).item()
    assert value == pytest.approx(1 - (centred(own, mean) * centred(wanted, mean)).sum().item(), abs=5e-3)
    assert value > 1 - torch.cosine_similarity(own, wanted).item()


def test_the_contrast_excludes_the_own_person(painting, people, recogniser):
    """A bank without other people adds nothing; more similar people add more."""
    denoiser, rows = painting
    (_, _, own), (_, _, wanted) = people
    step_data = make_step_data([200], denoiser, rows)
    plain = IdentityLoss(recogniser)(step_data)
    same = NegativeBank(torch.cat([own, wanted]), rows.identity.expand(2))
    assert torch.equal(IdentityLoss(recogniser, bank=same)(step_data), plain)
    near, far = (
        IdentityLoss(recogniser, bank=NegativeBank(other, torch.tensor([99])))(step_data) for other in (own, -own)
    )
    assert near > far >= plain


class FirstPixels(nn.Module):
    """A recogniser whose embedding is the first 512 values of the picture."""

    def embed(self, pixels, keypoints):
        return pixels.flatten(1)[:, :512]


def test_the_contrast_is_infonce_with_its_weight_and_temperature():
    torch.manual_seed(0)
    rows = make_rows(2)
    bank = NegativeBank(torch.randn(5, 512), torch.tensor([0, 1, 7, 8, 9]))
    step_data = make_step_data([100, 200], rows=rows)
    plain = IdentityLoss(FirstPixels()).per_row(step_data)
    added = IdentityLoss(FirstPixels(), bank=bank, contrast=0.3, temperature=0.2).per_row(step_data) - plain
    embedding = nn.functional.normalize(step_data.clean.flatten(1)[:, :512], dim=1)
    own = (embedding * nn.functional.normalize(rows.face, dim=1)).sum(1)
    others = embedding @ nn.functional.normalize(bank.embeddings, dim=1).T
    for row in range(2):
        logits = torch.cat([own[row : row + 1], others[row][bank.identity != row]]) / 0.2
        assert added[row].item() == pytest.approx(-0.3 * logits.log_softmax(0)[0].item(), rel=1e-4)


def test_few_steps_reach_the_higher_of_top_and_high():
    t = torch.tensor([650, 750, 850, 950])
    assert FewStepIdentityLoss(None, high=900).applies(t).tolist() == [True, True, True, False]
    assert FewStepIdentityLoss(None, high=300).applies(t).tolist() == [True, False, False, False]
    assert FewStepIdentityLoss(None, begin="noise").applies(t).all()


@pytest.mark.parametrize(
    "left_out", [dict(t=[300]), dict(t=[999]), dict(face_on=torch.zeros(1)), dict(box=torch.zeros(1, 4))]
)
def test_rows_left_out_get_no_gradient(recogniser, left_out):
    denoiser = StubDenoiser()
    rows = make_rows(
        2,
        64,
        **({"box": torch.cat([torch.tensor([[0.2, 0.2, 0.8, 0.8]]), left_out["box"]])} if "box" in left_out else {}),
    )
    face_on = torch.cat([torch.ones(1), left_out.get("face_on", torch.ones(1))])
    prediction = torch.zeros(2, 3, 64, 64, requires_grad=True)
    step_data = make_step_data([100, *left_out.get("t", [100])], denoiser, rows, prediction=prediction, face_on=face_on)
    loss = IdentityLoss(recogniser)
    assert loss.chosen(step_data).tolist() == [True, False]
    values = loss.per_row(step_data)
    assert values[0] > 0 and values[1] == 0
    loss(step_data).backward()
    assert prediction.grad[0].abs().sum() > 0 and prediction.grad[1].abs().sum() == 0


def test_without_rows_the_loss_is_zero(recogniser):
    value = IdentityLoss(recogniser)(make_step_data([999, 500]))
    assert value == 0 and value.dtype == torch.float32 and not value.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["epsilon", "v"])
def test_finite_at_both_ends(recogniser, dtype, kind):
    denoiser = StubDenoiser(kind)
    rows = make_rows(2, 64)
    step_data = make_step_data([0, 999], denoiser, rows)
    step_data = make_step_data([0, 999], denoiser, rows, prediction=step_data.prediction.to(dtype))
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float32):
        value = IdentityLoss(recogniser, high=1000)(step_data)
    value.backward()
    assert torch.isfinite(value) and value.dtype == torch.float32
    assert all(torch.isfinite(part.grad).all() and part.grad.abs().sum() > 0 for part in denoiser.net.parameters())


def test_few_steps_reach_the_picture(people, recogniser):
    """An exact denoiser leads from any noise level to the picture; rows at low noise take one step."""
    (pixels, points, own), _ = people
    denoiser = PictureDenoiser(pixels.repeat(3, 1, 1, 1))
    rows = make_rows(
        3, SIZE, latents=pixels.repeat(3, 1, 1, 1), keypoints=points.repeat(3, 1, 1), face=own.repeat(3, 1)
    )
    for kind in ("epsilon", "v"):
        denoiser.prediction, denoiser.calls = kind, []
        step_data = make_step_data([100, 600, 950], denoiser, rows)
        denoiser.calls = []
        loss = FewStepIdentityLoss(recogniser, steps=3, learnt=1)
        assert loss.chosen(step_data).tolist() == [True, True, False]
        assert torch.allclose(loss.latents(step_data, torch.tensor([0, 1])), rows.latents[:2], atol=1e-3)
        # the first step is the training step's own prediction
        assert denoiser.calls == [([400], False), ([200], True)]
        assert loss.per_row(step_data)[:2].max() < 0.01


@pytest.mark.parametrize("learnt", [1, 4])
def test_descent_through_few_steps(people, recogniser, learnt):
    (pixels, points, _), (_, _, wanted) = people
    denoiser = PictureDenoiser(pixels)
    rows = make_rows(1, SIZE, latents=pixels, keypoints=points, face=wanted)
    optimiser = torch.optim.Adam(denoiser.net.parameters(), 0.01)
    values = []
    for step in range(8):
        value = FewStepIdentityLoss(recogniser, learnt=learnt)(make_step_data([650], denoiser, rows, seed=step))
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        values.append(value.item())
    assert values[-1] < values[0] - 0.3


@pytest.mark.parametrize("kind", ["epsilon", "v"])
def test_from_noise_the_picture_is_not_used(people, recogniser, kind):
    """Every row starts from its noise at the last timestep, and only with a face location."""
    (pixels, points, own), _ = people
    sampled, hidden = pixels.repeat(2, 1, 1, 1), torch.zeros(2, 3, SIZE, SIZE)
    denoiser = PictureDenoiser(sampled, prediction=kind)
    rows = make_rows(2, SIZE, latents=hidden, keypoints=points.repeat(2, 1, 1), face=own.repeat(2, 1))
    step_data = make_step_data([0, 999], denoiser, rows, prediction=hidden)
    loss = FewStepIdentityLoss(recogniser, steps=3, learnt=2, begin="noise")
    assert loss.chosen(step_data).tolist() == [False, False] and loss(step_data) == 0
    step_data = replace(
        step_data,
        reference_batch=replace(step_data.reference_batch, location=FaceLocation(rows.keypoints, (SIZE, SIZE), 2)),
    )
    denoiser.calls = []
    assert torch.allclose(loss.latents(step_data, torch.tensor([0, 1])), sampled, atol=1e-3)
    assert denoiser.calls == [([999, 999], False), ([666, 666], True), ([333, 333], True)]
    assert loss.per_row(step_data).max() < 0.01


@pytest.mark.parametrize("kind,begin", [("epsilon", "picture"), ("v", "picture"), ("v", "noise")])
def test_few_steps_follow_one_noise(recogniser, kind, begin):
    """Where each prediction implies one picture, the latents of every step are that picture with the step's noise."""
    rows, calls = make_rows(2), []

    class Recording(PictureDenoiser):
        def predict(self, noisy, t, prompt, people=None, control=None, watch=None):
            calls.append((noisy, t))
            return super().predict(noisy, t, prompt, people, control, watch)

    denoiser = Recording(rows.latents, kind)
    step_data = make_step_data([600, 650], denoiser, rows)
    loss = FewStepIdentityLoss(recogniser, steps=4, begin=begin)
    calls.clear()
    with torch.no_grad():
        loss.sample(step_data, torch.tensor([0, 1]))
    epsilon = step_data.noise
    if begin == "noise":  # all of it counts as noisy latents of the last step
        a, s = denoiser.signal[999], denoiser.noise[999]
        epsilon = (step_data.noise - a * rows.latents) / s
    shares, start = ((4, 3, 2, 1), [999, 999]) if begin == "noise" else ((3, 2, 1), [600, 650])
    assert [t.tolist() for _, t in calls] == [[round(t * share / 4) for t in start] for share in shares]
    for noisy, t in calls:
        a, s = (table[t].view(-1, 1, 1, 1) for table in (denoiser.signal, denoiser.noise))
        torch.testing.assert_close(noisy, a * rows.latents + s * epsilon, atol=2e-3, rtol=0)


def test_guidance_extrapolates_from_the_unconditional_prediction(recogniser):
    """With face and prompt the denoiser predicts 1, without them half of it: a guidance scale of 3 gives .5 + 3 · .5,
    with no gradient through the unconditional prediction."""
    level = nn.Parameter(torch.tensor(1.0))

    class LevelDenoiser(StubDenoiser):
        def predict(self, noisy, t, prompt, people=None, control=None, watch=None):
            a, s = (table[t].view(-1, 1, 1, 1) for table in (self.signal, self.noise))
            text = prompt.states.flatten(1).any(1)
            return (a * noisy - torch.where(text, level, level / 2).view(-1, 1, 1, 1)) / s

    rows = make_rows(2)
    step_data = make_step_data([600, 600], LevelDenoiser("v"), rows, empty=Prompt(torch.zeros(1, 7, 12)))
    for guidance, sampled in ((1, 1.0), (3, 2.0)):
        for begin in ("picture", "noise"):
            loss = FewStepIdentityLoss(recogniser, steps=3, learnt=3, guidance=guidance, begin=begin)
            clean = loss.sample(step_data, torch.tensor([1]))
            assert torch.allclose(clean, torch.tensor(sampled), atol=1e-3)
            (slope,) = torch.autograd.grad(clean.mean(), level, retain_graph=True)
            assert slope == pytest.approx(guidance, rel=1e-3)


def test_few_steps_use_the_same_references_at_the_new_noise_level(recogniser):
    denoiser, count = StubDenoiser(), 3
    adapter = TripletAdapter(
        AdapterConfig(denoiser.layer_map, face_width=512, face_rank=8, image_width=6, image_tokens=2)
    )
    for stream in adapter.streams.values():
        nn.init.normal_(stream.gate.knots)
    rows, on = make_rows(count), torch.tensor([True, False, True])
    reference_batch = ReferenceBatch(nn.functional.normalize(rows.face, dim=-1), torch.randn(count, 5, 6), on, ~on)
    extra = {adapter.streams["face"].to_k[0]: nn.Linear(12, 8)}
    step_data = make_step_data(
        [700, 700, 100],
        denoiser,
        rows,
        adapter=adapter,
        reference_batch=reference_batch,
        extra=extra,
        control=torch.rand(count, 3, 8, 8),
    )
    calls = []
    denoiser.predict = lambda noisy, t, prompt, people, control: calls.append((prompt, people, control)) or noisy
    chosen, t = torch.tensor([1, 2]), torch.tensor([350, 50])
    predict_again(step_data, step_data.noisy[chosen], t, chosen)
    made = reference_batch.with_tokens(adapter, rows.prompt.states)
    adapter.face_projector.forward = adapter.image_projector.forward = None
    predict_again(replace(step_data, reference_batch=made), step_data.noisy[chosen], t, chosen)
    del adapter.face_projector.forward, adapter.image_projector.forward
    (prompt, people, control), (_, again, _) = calls
    for one, two in zip(people, again, strict=True):
        for layer, same in zip(one, two, strict=True):
            for part in ("k", "v", "gate", "mask"):
                assert torch.allclose(getattr(layer, part), getattr(same, part), atol=1e-6)
    sigma = denoiser.noise / denoiser.signal
    whole = reference_batch.streams(adapter, rows.prompt.states, sigma[[1, 350, 50]], torch.float32, extra)
    assert torch.equal(prompt.states, rows.prompt.states[1:]) and torch.equal(control, step_data.control[1:])
    for layer, expected in zip(people, whole):
        assert len(layer) == 2
        for one, other in zip(layer, expected):
            assert one.rows == 2
            for part in ("k", "v", "gate", "mask"):
                assert torch.allclose(getattr(one, part), getattr(other, part)[1:], atol=1e-5)
    with pytest.raises(ValueError, match="learnt"):
        FewStepIdentityLoss(recogniser, steps=2, learnt=3)
    with pytest.raises(ValueError, match="begin"):
        FewStepIdentityLoss(recogniser, begin="nothing")


def test_toward_the_reference(painting, people, recogniser):
    denoiser, rows = painting
    step_data = make_step_data([200], denoiser, rows)
    other = make_step_data(
        [200],
        denoiser,
        rows,
        reference_batch=type(step_data.reference_batch)(-step_data.reference_batch.face, None, *[torch.ones(1)] * 2),
    )
    loss = IdentityLoss(recogniser, toward="reference")
    assert loss(step_data).item() == pytest.approx(2 - loss(other).item(), abs=1e-5)
    with pytest.raises(ValueError, match="toward"):
        IdentityLoss(recogniser, toward="none")


def test_toward_the_person_for_any_picture(painting, people, recogniser):
    denoiser, rows = painting
    (_, _, own), (_, _, wanted) = people
    persons = centred(torch.stack([-own[0], wanted[0]]), None)
    loss = IdentityLoss(recogniser, toward="person", persons=persons)
    values = [
        loss(make_step_data([200], denoiser, replace(rows, face=-wanted, identity=torch.tensor([number])))).item()
        for number in (0, 1)
    ]
    assert values[0] == pytest.approx(2, abs=5e-3)
    assert values[1] == pytest.approx(IdentityLoss(recogniser)(make_step_data([200], denoiser, rows)).item(), abs=1e-5)
    with pytest.raises(ValueError, match="person"):
        IdentityLoss(recogniser, toward="person")


class OnePerson:
    """A data set of the photos [N, 512] of one person."""

    recogniser = "stub/mean.onnx"

    def __init__(self, faces: torch.Tensor):
        self.faces, self.mean_face = faces, nn.functional.normalize(faces, dim=1).mean(0)
        self.people, self.buckets = {0: list(range(len(faces)))}, [list(range(len(faces)))]

    def __len__(self):
        return len(self.faces)

    def features(self, indices, augmented=None, vision=True):
        return self.faces[list(indices)], None


@pytest.mark.parametrize("toward", ["picture", "person", "reference"])
def test_with_one_person_another_photo_costs_less_than_a_stranger(photo, folder, toward):
    """The mean of the data set is this person, so it is not subtracted."""
    own, stranger = [photo("0005", view) for view in (0, 2, 4)], photo("0006")
    data, denoiser = OnePerson(torch.cat([face for *_, face in own])), StubDenoiser()
    network = folder / "models" / "buffalo_s" / "w600k_mbf.onnx"
    settings = IdentitySettings.of(Stage(identity=0.1, identity_toward=toward))
    loss, values = settings.make(LossInputs(data, denoiser, None, network)), []
    for pixels, points, _ in (own[1], stranger):
        denoiser.net = FixedPicture(pixels, denoiser, 200)
        rows = make_rows(1, SIZE, latents=pixels, keypoints=points, face=own[0][2])
        values.append(loss(make_step_data([200], denoiser, rows)).item())
    assert values[0] < values[1] - 0.2, values


def test_a_person_is_the_mean_of_their_pictures():
    data = ManyPeople(5)
    mean = person_means(data, data.mean_face)
    whose = centred(data.rows.face[data.people[3]], data.mean_face).mean(0)
    assert torch.allclose(mean[3], whose / whose.norm(), atol=1e-6) and mean.shape == (5, 8)
