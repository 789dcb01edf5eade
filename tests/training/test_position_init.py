"""A new adapter's face tokens are positions in the face: they describe it there, and queries attend to them."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from lab import PEOPLE, PHOTOS, STAGE, TinySource, tiny_denoiser
from torch.nn import functional as F

from facecdm.adapter.config import CONTENT
from facecdm.training.initialise import new_adapter
from facecdm.training.learner import Learner
from facecdm.training.lora import Lora
from facecdm.training.losses.arcface import SIZE, from_crop, upright
from facecdm.training.position_init import (
    REACH,
    _keys,
    _principal_directions,
    aligned_coordinates,
    can_init_positions,
    token_centres,
    widened,
)
from facecdm.training.preview import preview
from facecdm.training.rows import Prompt, Rows

PERSONS, SIDE, WIDTH = 40, 16, 24
SIZES = {"face_tokens": 4, "face_rank": 32, "image_tokens": 2, "image_layers": 1}
MIDDLE = torch.tensor([[0.35, 0.35], [0.65, 0.35], [0.5, 0.5], [0.38, 0.68], [0.62, 0.68]])


class Portraits(TinySource):
    """People whose first feature is the brightness of the picture's left half, the second that of its right half."""

    def __init__(self):
        super().__init__()
        rng = torch.Generator().manual_seed(5)
        count = PERSONS * PHOTOS
        person = torch.randn(PERSONS, WIDTH, generator=rng).repeat_interleave(PHOTOS, 0)
        self.faces = person + 0.1 * torch.randn(count, WIDTH, generator=rng)
        self.states = torch.randn(count, 5, 20, generator=rng)
        self.texts = torch.randn(count, 7, 32, generator=rng)
        traits = F.normalize(person, dim=1)[:, :2]
        latents = 0.02 * torch.randn(count, 4, SIDE, SIDE, generator=rng)
        latents[:, 0, :, : SIDE // 2] += traits[:, :1, None]
        latents[:, 0, :, SIDE // 2 :] += traits[:, 1:, None]
        self.latents, self.buckets = list(latents), [list(range(count))]
        self.people = {person: list(range(person * PHOTOS, person * PHOTOS + PHOTOS)) for person in range(PERSONS)}

    @property
    def mean_face(self):
        return F.normalize(self.faces, dim=1).mean(0)

    def load(self, indices):
        count = len(indices)
        return Rows(
            torch.stack([self.latents[i] for i in indices]),
            Prompt(self.texts[indices]),
            self.faces[indices],
            None,
            torch.tensor([[0.2, 0.2, 0.8, 0.8]]).repeat(count, 1),
            MIDDLE.repeat(count, 1, 1),
            None,
            torch.tensor([i // PHOTOS for i in indices]),
        )


@pytest.fixture(scope="module", params=[0, 12], ids=["any content", "limited content"])
def setup(request):
    torch.set_num_threads(1)
    denoiser, data = tiny_denoiser(), Portraits()
    return denoiser, data, new_adapter(denoiser, data, **SIZES, face_content=request.param)


def test_a_token_describes_the_face_at_its_position(setup):
    _, data, adapter = setup
    tokens = adapter.face_projector(F.normalize(data.faces, dim=1))  # upper left, upper right, lower left, lower right
    content = tokens[:, :, : adapter.config.layer_map.context // 2].double()
    content = torch.cat([content - content.mean(0), torch.ones(len(content), 4, 1).double()], -1)
    traits = F.normalize(data.faces, dim=1)[:, :2].double()

    def explained(token: int, trait: int) -> float:
        wanted = traits[:, trait] - traits[:, trait].mean()
        left = wanted - content[:, token] @ torch.linalg.pinv(content[:, token]) @ wanted
        return 1 - (left.square().sum() / wanted.square().sum()).item()

    first = content[:, :, 0]  # the largest feature is the brightness
    correlation = torch.corrcoef(torch.cat([first.T, traits.T])).abs()[:4, 4:]
    assert (correlation.argmax(1) == torch.tensor([0, 1, 0, 1])).all() and correlation.max(1).values.min() > 0.9
    assert all(explained(token, token % 2) > 0.8 for token in range(4))


@pytest.mark.parametrize("size", [(40, 6), (6, 40)], ids=["many rows", "few rows"])
def test_principal_directions_keep_the_most_of_the_rows(size):
    rows = torch.randn(size, generator=torch.Generator().manual_seed(2))
    directions = _principal_directions(rows, 3)
    torch.testing.assert_close(directions @ directions.T, torch.eye(3), atol=1e-5, rtol=0)
    torch.testing.assert_close((rows @ directions.T).norm(dim=0), torch.linalg.svdvals(rows)[:3])
    padded = _principal_directions(rows, 8)
    assert padded.shape == (8, size[1]) and not padded[6:].any()


def test_a_query_attends_to_its_position():
    rng = torch.Generator().manual_seed(1)
    where, turn = token_centres(3).double(), torch.randn(8, 3, generator=rng).double()
    points = torch.cat([torch.rand(4000, 2, generator=rng).double() * 3 - 1.5, torch.ones(4000, 1).double()], 1)
    queries = points @ turn.T + 0.02 * torch.randn(4000, 8, generator=rng).double()
    keys = _keys(queries.T @ queries / 4000, queries.T @ points / 4000, points.T @ points / 4000, where)
    attention = (queries @ keys.T / math.sqrt(8)).softmax(1)
    nearest = torch.cdist(points[:, :2], where).argmin(1)
    assert (attention.argmax(1) == nearest).double().mean() > 0.97
    noise = torch.randn(4000, 8, generator=rng).double()
    keys = _keys(noise.T @ noise / 4000, noise.T @ points / 4000, points.T @ points / 4000, where)
    assert (noise @ keys.T / math.sqrt(8)).softmax(1).max() < 0.6, "queries without a position attend everywhere"


def test_keys_depend_on_the_position_and_less_on_the_person(setup):
    denoiser, data, adapter = setup
    plain = new_adapter(denoiser, data, positions=False, **SIZES, face_content=adapter.config.face_content)
    tokens = adapter.face_projector(F.normalize(data.faces, dim=1))
    for own, before in zip(adapter.streams["face"].to_k, plain.streams["face"].to_k):
        assert not torch.equal(own.weight, before.weight)
        keys = F.linear(tokens, own.weight)
        assert keys.std(0).mean() < 0.5 * keys.mean(0).std(0).mean()
    for name, value in adapter.state_dict().items():
        changed = not torch.equal(value, plain.state_dict()[name])
        initialised = ("face_projector.uplift", "face_projector.spread", "face_projector.place", "streams.face.to_k")
        assert changed == name.startswith(initialised), name
    assert adapter.is_new and adapter.config.spatial_tokens and not plain.config.spatial_tokens


def test_the_same_data_give_the_same_adapter(setup):
    denoiser, data, adapter = setup
    again = new_adapter(denoiser, data, **SIZES, face_content=adapter.config.face_content)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in adapter.state_dict().items())


def test_a_preview_uses_the_location_of_its_prompts_face_unless_poses_are_dropped(setup):
    denoiser, data, adapter = setup

    class Moved(Portraits):
        def load(self, indices):
            rows = super().load(indices)
            return replace(rows, keypoints=rows.keypoints / 2)

    trained = copy.deepcopy(adapter)
    with torch.no_grad():
        for linear in trained.streams["face"].to_v:
            linear.weight.normal_()
        trained.streams["face"].gate.knots.fill_(0.5)

    def previews(**settings):
        learner = Learner(
            trained, Lora(), {}, STAGE.with_settings(train=["projectors"], **settings), torch.device("cpu")
        )
        return [preview(denoiser, learner, source, [0], [6], steps=2) for source in (data, Moved())]

    (here, there), unconditioned = previews(), previews(drop_pose=1.0)
    assert torch.equal(*unconditioned) and not torch.equal(here, there) and not torch.equal(here, unconditioned[0])


def test_few_people_or_tokens_that_form_no_square_stay_random(setup):
    denoiser, data, adapter = setup
    assert can_init_positions(adapter, data) and len(TinySource().people) == PEOPLE
    assert not can_init_positions(adapter, TinySource())
    assert not can_init_positions(new_adapter(denoiser, TinySource(), **SIZES | {"face_tokens": 5}), data)


@pytest.mark.parametrize("side, content", [(8, 0), (9, CONTENT)])
def test_many_tokens_have_limited_content_each(side, content):
    """Linear in the code, through a basis that all tokens share, so that a file can hold the weights."""
    projector = new_adapter(tiny_denoiser(), TinySource(), face_tokens=side**2, positions=False).face_projector
    assert projector.content == content
    assert projector.uplift.weight.numel() == side**2 * 128 * (content or 32)


def test_limited_content_is_linear_in_the_code(setup):
    _, data, adapter = setup
    projector = adapter.face_projector
    codes = projector.code(F.normalize(data.faces[:2], dim=1))
    curvature = projector.activate(codes.mean(0)) - projector.activate(codes).mean(0)
    assert (curvature.abs().max() < 1e-5) == bool(projector.content)


def test_widened_key_points_keep_their_centre():
    picture = torch.rand(1, 3, 90, 120)
    points = MIDDLE[None] * torch.tensor([0.5, 0.6]) + torch.tensor([0.2, 0.15])
    size = torch.tensor([120.0, 90.0])
    near, far = from_crop(points * size), from_crop(widened(points, picture) * size)
    torch.testing.assert_close(far[:, :, :2], near[:, :, :2] * REACH, rtol=1e-4, atol=1e-4)
    middle = torch.tensor([SIZE / 2 - 0.5, SIZE / 2 - 0.5, 1])
    torch.testing.assert_close(far @ middle, near @ middle, rtol=1e-4, atol=1e-3)
    assert upright(picture, widened(points, picture)).shape == (1, 3, SIZE, SIZE)


def test_aligned_coordinates_follow_the_key_points():
    from facecdm.faces.align import TEMPLATE

    points = (torch.tensor(TEMPLATE) + 20) / torch.tensor([160.0, 128.0])  # upright, as large as the crop, 20 px inside
    at = aligned_coordinates(points[None].float(), (16, 20), (16, 20))[0].view(16, 20, 3)
    pixel = torch.stack(torch.meshgrid(torch.arange(16), torch.arange(20), indexing="ij")[::-1], -1) * 8 + 3.5
    wanted = ((pixel - 20 - SIZE / 2 + 0.5) / (SIZE / 2)).clamp(-REACH - 0.2, REACH + 0.2)
    torch.testing.assert_close(at[..., :2], wanted, rtol=0, atol=0.08)  # whole latents are 8 pixels
    assert aligned_coordinates(points[None].float(), (16, 20), (4, 5)).shape == (1, 20, 3)
