"""The identity loss on a DiT of either host, with InsightFace's recogniser."""

from dataclasses import replace

import pytest
import torch
from dit_lab import CONTEXT, DitSource, denoisers
from flux_twins import make_twins
from lab import Shrink
from step_stubs import make_step_data
from tensors import close
from torch.nn import functional as F
from twins import stir

from facecdm.adapter.reference_batch import ReferenceBatch
from facecdm.training.initialise import new_adapter
from facecdm.training.losses import ArcFace, FewStepIdentityLoss, IdentityLoss

T = torch.tensor([60, 200])


@pytest.fixture(scope="module")
def recogniser(face_models) -> ArcFace:
    return ArcFace(face_models / "models" / "insightface" / "models" / "buffalo_s" / "w600k_mbf.onnx")


@pytest.fixture(scope="module")
def hosts(in_comfy):
    with denoisers(make_twins(CONTEXT)) as (comfy, diffusers):
        comfy.decode = Shrink()
        yield comfy, diffusers


@pytest.fixture(scope="module")
def rows():
    rows = DitSource().load([0, 3])
    wanted = torch.randn(2, 512, generator=torch.Generator().manual_seed(1))
    return replace(rows, latents=rows.latents / 2, face=wanted)


def loss_and_gradients(denoiser, rows, loss) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
    """The loss, the gradients of an adapter's cells, and the predicted latents."""
    getattr(denoiser, "prepare", lambda: None)()
    data = DitSource()
    sizes = dict(face_rank=8, face_tokens=2, image_tokens=2, image_layers=1, token_width=64, cell_width=128)
    adapter = stir(new_adapter(denoiser, data, **sizes)).requires_grad_(True)
    face, vision = data.features([0, 3])
    on = torch.ones(2, dtype=torch.bool)
    references = ReferenceBatch(F.normalize(face, dim=1), vision, on, on)
    sigma = (denoiser.noise / denoiser.signal)[T]
    streams = references.streams(adapter, rows.prompt.states, sigma, torch.float32, text_mask=rows.prompt.mask)
    plain = make_step_data(T.tolist(), denoiser, rows, prediction=torch.zeros_like(rows.latents))
    velocity = denoiser.predict(plain.noisy, T, rows.prompt, streams)
    more = dict(adapter=adapter, reference_batch=references, people=streams)
    step_data = make_step_data(T.tolist(), denoiser, rows, prediction=velocity, **more)
    value = loss(step_data)
    value.backward()
    found = {name: one.grad for name, one in adapter.named_parameters() if "restore" not in name}
    return value.detach(), found, (plain.noisy - denoiser.noise[T].view(-1, 1, 1, 1) * velocity).detach()


@pytest.mark.parametrize("few", [False, True])
def test_both_hosts_learn_the_identity(hosts, rows, recogniser, few):
    loss = FewStepIdentityLoss(recogniser, high=100, steps=2) if few else IdentityLoss(recogniser)
    (ours, comfy, clean), (theirs, diffusers, _) = (loss_and_gradients(host, rows, loss) for host in hosts)
    if not few:
        shown = recogniser.embed(Shrink()(clean), rows.keypoints)
        close(ours, (1 - F.cosine_similarity(shown, rows.face)).mean(), 1e-4)
    close(ours, theirs, 1e-4)
    for name, gradient in comfy.items():
        # The recogniser's rectifiers turn differences of rounding into some per cent of a gradient.
        assert F.cosine_similarity(gradient.flatten(), diffusers[name].flatten(), dim=0) > 0.998, name
        close(gradient.norm(), diffusers[name].norm(), 2e-2)
