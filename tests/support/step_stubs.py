"""Stubs for tests of losses: a denoiser of one convolution, rows, step data, and a data set."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from facecdm.adapter.reference_batch import ReferenceBatch
from facecdm.bases.layers import Layer, LayerMap
from facecdm.demo.schedule import signal_and_noise
from facecdm.training.denoiser import clean_from
from facecdm.training.rows import Prompt, Rows
from facecdm.training.step_data import StepData


@dataclass(eq=False)
class StubDenoiser:
    """Latents are pixels; `net` stands for U-Net and adapter; the schedule has zero terminal SNR."""

    prediction: str = "epsilon"
    dtype: torch.dtype = torch.float32
    net: nn.Module = field(default_factory=lambda: nn.Conv2d(3, 3, 3, padding=1))
    layer_map: LayerMap = LayerMap((Layer("input", 8, 2), Layer("middle", 16, 4)), 12)
    device: torch.device = torch.device("cpu")
    can_decode: bool = True
    distilled: bool = False

    def __post_init__(self):
        self.signal, self.noise = signal_and_noise()

    def predict(self, noisy, t, prompt, people=None, control=None, watch=None):
        return self.net(noisy)

    def decode(self, latents: Tensor) -> Tensor:
        return latents.float()


def make_rows(count: int, size: int = 16, seed: int = 0, **values) -> Rows:
    rng = torch.Generator().manual_seed(seed)
    box = torch.tensor([0.25, 0.25, 0.75, 0.75]).repeat(count, 1)
    points = torch.tensor([[0.4, 0.4], [0.6, 0.4], [0.5, 0.5], [0.42, 0.62], [0.58, 0.62]]).repeat(count, 1, 1)
    return Rows(
        **dict(
            latents=torch.randn(count, 3, size, size, generator=rng) / 2,
            prompt=Prompt(torch.randn(count, 7, 12, generator=rng)),
            face=torch.randn(count, 512, generator=rng) * 5,
            vision=None,
            box=box,
            keypoints=points,
            control=None,
            identity=torch.arange(count),
        )
        | values
    )


def make_step_data(
    t: list[int],
    denoiser: StubDenoiser | None = None,
    rows: Rows | None = None,
    seed: int = 0,
    prediction: Tensor | None = None,
    **values,
) -> StepData:
    """Step data at the timesteps `t`, with the denoiser's prediction unless one is given."""
    denoiser = denoiser or StubDenoiser()
    rows = rows or make_rows(len(t))
    steps = torch.tensor(t)
    signal, level = denoiser.signal[steps], denoiser.noise[steps]
    noise = torch.randn(rows.latents.shape, generator=torch.Generator().manual_seed(seed))
    noisy = signal.view(-1, 1, 1, 1) * rows.latents + level.view(-1, 1, 1, 1) * noise
    if prediction is None:
        prediction = denoiser.predict(noisy, steps, rows.prompt).float()
    on = torch.ones(len(t))
    reference_batch = ReferenceBatch(nn.functional.normalize(rows.face, dim=-1), None, on.bool(), on.bool())
    return StepData(
        **dict(
            denoiser=denoiser,
            rows=rows,
            t=steps,
            signal=signal,
            noise_level=level,
            noise=noise,
            noisy=noisy,
            prediction=prediction,
            clean=clean_from(prediction, noisy, signal, level, denoiser.prediction),
            face_on=on,
            image_on=on,
            text_on=on,
            step=1,
            prompt=rows.prompt,
            reference_batch=reference_batch,
        )
        | values
    )


class ManyPeople:
    """`count` people with three pictures each, whose latents are linear in their embeddings, plus noise."""

    empty_prompt, recogniser = Prompt(torch.zeros(1, 7, 12)), "stub/mean.onnx"

    def __init__(self, count: int = 60, size: int = 24, noise_level: float = 0.3, width: int = 8):
        rng = torch.Generator().manual_seed(0)
        whose = torch.arange(count).repeat_interleave(3)
        faces = nn.functional.normalize(torch.randn(count, width, generator=rng), dim=1)[whose]
        linear = torch.randn(width, 3 * size * size, generator=rng) / width**0.5
        noise = torch.randn(len(whose), 3, size, size, generator=rng) * noise_level
        self.rows = make_rows(
            len(whose), size, latents=(faces @ linear).view_as(noise) + noise, face=faces * 5, identity=whose
        )
        self.people = {person: (whose == person).nonzero()[:, 0].tolist() for person in range(count)}
        self.buckets = [list(range(len(whose)))]
        self.mean_face = faces.mean(0)

    def __len__(self) -> int:
        return len(self.rows)

    def identity(self, index: int) -> int:
        return int(self.rows.identity[index])

    def latent_shape(self, index: int) -> tuple[int, ...]:
        return tuple(self.rows.latents.shape[1:])

    def features(self, indices, augmented=None, vision=True):
        return self.rows.face[indices], None

    def load(self, indices: list[int]) -> Rows:
        return Rows(
            **{
                name: value if isinstance(value, Prompt) or value is None else value[indices]
                for name, value in vars(self.rows).items()
            }
        )
