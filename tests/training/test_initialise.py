"""The initial bottleneck of a new adapter distinguishes people."""

import pytest
import torch
from torch.nn import functional as F

from facecdm.adapter.config import AdapterConfig
from facecdm.adapter.model import TripletAdapter
from facecdm.bases import BASES
from facecdm.training.initialise import identity_directions, init_bottleneck
from facecdm.training.learner import Learner
from facecdm.training.lora import Lora
from facecdm.training.stages import PRESETS

WIDTH, PEOPLE, PHOTOS, TRAITS = 32, 60, 4, 3


@pytest.fixture(scope="module")
def faces() -> tuple[torch.Tensor, torch.Tensor]:
    """Unit embeddings [240, 32] whose first three features are the person and the others, larger, the photo."""
    rng = torch.Generator().manual_seed(0)
    person = torch.randn(PEOPLE, TRAITS, generator=rng).repeat_interleave(PHOTOS, 0)
    photo = torch.randn(PEOPLE * PHOTOS, WIDTH - TRAITS, generator=rng) * 3
    noise = torch.randn(PEOPLE * PHOTOS, TRAITS, generator=rng) * 0.1
    return torch.cat([person + noise, photo], 1) / 100, torch.arange(PEOPLE).repeat_interleave(PHOTOS)


def test_directions_depend_on_the_person_and_not_on_the_photo(faces):
    centred = faces[0] - faces[0].mean(0)
    directions = identity_directions(centred, faces[1], TRAITS)
    code = centred @ directions.T
    means = code.view(PEOPLE, PHOTOS, -1).mean(1, keepdim=True)
    assert means.var() > 20 * (code.view(PEOPLE, PHOTOS, -1) - means).var()
    assert code.square().mean().sqrt().item() == pytest.approx(1, abs=1e-4)
    principal = identity_directions(centred, torch.arange(len(centred)), TRAITS)  # every photo another person's
    assert (centred @ principal.T).var(0).tolist() == pytest.approx([1] * TRAITS, rel=0.02)
    assert principal[:, :TRAITS].norm() < 0.3 * principal.norm()


def test_the_code_passes_its_gelu_and_restores_the_face(faces):
    torch.manual_seed(0)
    adapter = TripletAdapter(AdapterConfig(BASES["FaceCDM demo"].layer_map, face_width=WIDTH, face_rank=2 * WIDTH))
    init_bottleneck(adapter, *faces)
    projector = adapter.face_projector
    code = projector.code(faces[0])
    half = code.shape[1] // 2
    assert torch.allclose(F.gelu(code[:, :half]) - F.gelu(code[:, half:]), code[:, :half], atol=1e-4)
    assert projector.reconstruction_loss(faces[0]) < 1e-3 * (faces[0] - faces[0].mean(0)).square().mean() * WIDTH


def test_a_code_without_a_gelu_needs_no_pairs(faces):
    adapter = TripletAdapter(
        AdapterConfig(BASES["FaceCDM demo"].layer_map, face_width=WIDTH, face_rank=WIDTH, face_content=4)
    )
    init_bottleneck(adapter, *faces)
    projector = adapter.face_projector
    assert projector.reconstruction_loss(faces[0]) < 1e-3 * (faces[0] - faces[0].mean(0)).square().mean() * WIDTH


def test_one_photo_initialises_nothing():
    adapter = TripletAdapter(AdapterConfig(BASES["FaceCDM demo"].layer_map, face_width=WIDTH))
    before = adapter.face_projector.reduce.weight.detach().clone()
    init_bottleneck(adapter, torch.ones(1, WIDTH), torch.zeros(1, dtype=torch.int64))
    assert torch.equal(adapter.face_projector.reduce.weight, before)


@pytest.mark.parametrize(
    "settings,opens",
    [({"rank": 0}, True), ({"rank": 4}, False), ({"rank": 0, "train": ("projectors", "gates")}, False)],
)
def test_gates_open_where_values_are_trained_whole(settings, opens):
    torch.manual_seed(0)
    adapter = TripletAdapter(AdapterConfig(BASES["FaceCDM demo"].layer_map, face_width=WIDTH)).requires_grad_(False)
    before = {name: value.clone() for name, value in adapter.state_dict().items()}
    learner = Learner(adapter, Lora(), {}, PRESETS["adapter"][0].with_settings(**settings), torch.device("cpu"))
    stream = learner.adapter.streams["face"]
    assert bool((stream.gate.knots == 1).all()) == opens == (not any(value.weight.any() for value in stream.to_v))
    assert opens or all(torch.equal(value, before[name]) for name, value in learner.adapter.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in adapter.state_dict().items())
    assert all(learner.named[name].requires_grad for name in learner.named) and len(learner.groups()) == 2
