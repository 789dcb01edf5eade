"""The losses of a stage on a real adapter and a real step: which parameters have gradients from which loss."""

from dataclasses import dataclass, field, replace

import pytest
import torch
from step_stubs import ManyPeople, StubDenoiser, make_rows
from torch import nn

from facecdm.adapter.attention import attend, triplet_attention
from facecdm.adapter.config import AdapterConfig
from facecdm.adapter.model import TripletAdapter
from facecdm.adapter.reference_batch import ReferenceBatch
from facecdm.bases.layers import Layer, LayerMap
from facecdm.training.learner import Learner, group_of
from facecdm.training.lora import Lora
from facecdm.training.losses import LossInputs
from facecdm.training.randomness import RandomNumbers
from facecdm.training.rows import Prompt
from facecdm.training.stages import Stage
from facecdm.training.step import forward
from facecdm.training.terms import terms_of

SIZE = 24


class OneLayer(nn.Module):
    """A convolution, and one cross-attention of 8 features over its positions."""

    def __init__(self):
        super().__init__()
        self.into, self.out = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1)
        self.to_q, self.to_k, self.to_v = nn.Linear(8, 8), nn.Linear(12, 8), nn.Linear(12, 8)


@dataclass(eq=False)
class AttentionDenoiser(StubDenoiser):
    net: nn.Module = field(default_factory=OneLayer)
    layer_map: LayerMap = LayerMap((Layer("input", 8, 2),), 12)

    def predict(self, noisy, t, prompt, people=None, control=None, watch=None):
        net = self.net
        q = net.to_q(net.into(noisy).flatten(2).transpose(1, 2))
        k, v = net.to_k(prompt.states), net.to_v(prompt.states)
        if watch is not None:
            watch(0, q, k)
        out = attend(q, k, v, 2)
        if people is not None:
            out = triplet_attention(q, out, people[0], 2, attend)
        return net.out(out.transpose(1, 2).unflatten(2, noisy.shape[-2:]))

    def linears(self):
        return {"unet.to_q": self.net.to_q}


@pytest.fixture(scope="module")
def recogniser(face_models):
    return face_models / "models" / "insightface" / "models" / "buffalo_s" / "w600k_mbf.onnx"


def step(recogniser, t: list[int], prediction: str = "epsilon", face_on: list[bool] | None = None, **losses):
    """One step with one loss beside the diffusion loss: (values, learner, denoiser)."""
    torch.manual_seed(0)
    count = len(t)
    on = torch.tensor(face_on or [True] * count)
    denoiser = AttentionDenoiser(prediction)
    denoiser.net.requires_grad_(False)
    located = losses.get("few_steps_from") == "noise"
    adapter = TripletAdapter(
        AdapterConfig(denoiser.layer_map, face_rank=8, face_tokens=4 if located else 2, spatial_tokens=located)
    )
    nn.init.constant_(adapter.streams["face"].gate.knots, 0.5)
    stage = Stage(
        train=("projectors", "keys_values", "gates", "interplay", "lora"),
        rank=2,
        lora_rank=2,
        **{"bottleneck": 0.0} | losses,
    )
    learner = Learner(adapter, Lora(), denoiser.linears(), stage, denoiser.device)
    for part in (*learner.extra.values(), *learner.lora.parts.values()):
        nn.init.normal_(part.up, 0, 0.1)  # `up` is initialised to zero, and `down` has no gradient then
    rows = make_rows(count, SIZE)
    random_numbers = RandomNumbers(
        torch.tensor(t),
        torch.randn(rows.latents.shape),
        torch.ones(count, dtype=torch.bool),
        on,
        on,
        on,
        ~on,
        torch.zeros(count),
        on,
        ~on,
        torch.zeros(count, 2),
        ~on,
    )
    reference_batch = ReferenceBatch(nn.functional.normalize(rows.face, dim=-1), None, on, on)
    terms = terms_of(stage, LossInputs(ManyPeople(size=SIZE, width=512), denoiser, adapter, recogniser))
    with learner.lora.on(denoiser.linears()):
        total, values = forward(
            denoiser, learner, terms[1:], rows, reference_batch, Prompt(torch.zeros(1, 7, 12)), random_numbers, 1
        )
    if total.requires_grad:
        total.backward()
    return values, learner, denoiser


def groups_with_gradients(learner: Learner) -> set[str]:
    """The groups with a gradient that is not zero; fails where one is not finite."""
    groups = set()
    for name, value in learner.named.items():
        assert value.grad is None or torch.isfinite(value.grad).all(), name
        if value.grad is not None and value.grad.any():
            kind, rest = name.split(".", 1)
            groups.add(group_of(rest) if kind == "adapter" else kind)
    return groups


ALL = {"projectors", "extra", "gates", "interplay", "lora"}
CASES = {  # loss: (the stage's settings, the groups with gradients)
    "bottleneck": (dict(bottleneck=1.0), {"projectors"}),
    "identity": (dict(identity=1.0, identity_below=1000), ALL),
    "few steps": (dict(identity=1.0, few_steps=3, identity_below=1), ALL),
    "few steps from noise": (
        dict(identity=1.0, few_steps=3, few_steps_from="noise", few_steps_learnt=2, few_steps_guidance=2.0),
        ALL,
    ),
    "linear identity": (dict(linear_identity=1.0), ALL),
    "localisation": (dict(localisation=1.0), ALL),
    "alignment": (dict(alignment=1.0), {"lora"}),  # a layer's queries precede its face stream
    "background": (dict(background=1.0), ALL),
}


@pytest.mark.parametrize("case", CASES)
def test_which_groups_have_gradients(recogniser, case):
    numbers, groups = CASES[case]
    values, learner, denoiser = step(recogniser, [200, 500], **numbers)
    assert all(value > 0 for value in values.values()) and len(values) == 1
    assert groups_with_gradients(learner) == groups
    assert all(value.grad is None for value in denoiser.net.parameters())


def test_all_calls_of_a_step_use_the_same_tokens(recogniser, monkeypatch):
    calls, project = [], TripletAdapter.project
    monkeypatch.setattr(TripletAdapter, "project", lambda *given: calls.append(given) or project(*given))
    step(recogniser, [200, 500], **CASES["few steps from noise"][0])
    assert len(calls) == 1


@pytest.mark.parametrize("case", [case for case in CASES if case != "bottleneck"])
def test_rows_without_their_face_give_no_gradient(recogniser, case):
    values, learner, _ = step(recogniser, [200, 500], face_on=[False, False], **CASES[case][0])
    assert all(value == 0 for value in values.values()) and not groups_with_gradients(learner)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_all_losses_at_both_ends_of_the_noise(recogniser, prediction):
    numbers = {name: value for numbers, _ in CASES.values() for name, value in numbers.items()}
    a_few, one = ({"identity_below": below, "few_steps_from": "picture"} for below in (1, 1000))
    for how in (a_few, one, {"few_steps_from": "noise"}):
        values, learner, _ = step(recogniser, [0, 999], prediction, **numbers | how)
        assert all(torch.isfinite(value) for value in values.values()) and len(values) == 6
        assert groups_with_gradients(learner) == ALL


def test_a_row_counts_the_same_in_any_batch(recogniser):
    """The mean over processes with one row each is the loss of the whole batch."""
    from step_stubs import make_step_data

    from facecdm.training.losses import AlignmentLoss, ArcFace, BackgroundLoss, DiffusionLoss, IdentityLoss

    denoiser = StubDenoiser()
    rows = make_rows(3, SIZE)
    net = ArcFace(recogniser)

    def part(i: slice):
        own = replace(rows, **{name: value[i] for name, value in vars(rows).items() if isinstance(value, torch.Tensor)})
        whole = make_step_data([100, 700, 200], denoiser, rows)
        step_data = make_step_data(
            [100, 700, 200][i],
            denoiser,
            own,
            noise=whole.noise[i],
            noisy=whole.noisy[i],
            prediction=whole.prediction[i],
            plain_prediction=torch.zeros_like(whole.noise[i]),
        )
        return replace(step_data, clean=whole.clean[i])

    for loss in (DiffusionLoss(), IdentityLoss(net), BackgroundLoss(), AlignmentLoss()):
        separate = sum(loss(part(slice(i, i + 1))) for i in range(3)) / 3
        assert torch.allclose(separate, loss(part(slice(None))), rtol=1e-4)
