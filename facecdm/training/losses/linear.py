"""The identity loss for all noise levels, through a linear recogniser fitted to the data set."""

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import FaceCDMError
from ..denoiser import Denoiser
from ..held_out import count_people
from ..settings import setting
from ..source import Source
from ..step_data import StepData
from .arcface import upright
from .loss import Loss, LossInputs, LossSettings, centred, spread

POOL = 4  # the 112 × 112 aligned face is averaged over POOL × POOL pixels
RIDGE = 0.1  # ridge penalty as a share of the mean variance
MOST = 6000  # pictures that the recogniser is fitted to
FEWEST_PEOPLE = 32
POSITIONS = 1 << 16  # positions of latents that the linear decoder is fitted to
BATCH, DECODED = 32, 4  # pictures at a time


class LinearRecogniser(nn.Module):
    """The best linear estimate of the embedding from latents and key points; frozen.

    decoder   [3·p², C, 1, 1]   from latents to p × p pixels per position
    weights   [D, 3·28²]        from the aligned face to the embedding, scaled so that the data set's pictures have a
                                mean squared length of 1 around their mean
    Both are least-squares maps. They have no bias, since they are applied to differences.
    """

    def __init__(self, decoder: Tensor, weights: Tensor):
        super().__init__()
        self.register_buffer("decoder", decoder)
        self.register_buffer("weights", weights)

    def forward(self, latents: Tensor, keypoints: Tensor) -> Tensor:
        """Difference of latents [B, C, h, w] and key points [B, 5, 2] in 0…1 → difference of embeddings [B, D]."""
        return F.linear(faces(latents, keypoints, self.decoder), self.weights)

    @classmethod
    @torch.no_grad()
    def fit(cls, denoiser: Denoiser, data: Source) -> "LinearRecogniser":
        """Fit by ridge regression of the embeddings on the pictures. The same data give the same weights.

        Raises FaceCDMError if the data set has too few people.
        """
        check_people(data)
        decoder = linear_decoder(denoiser, data)
        shown, wanted = [], []
        for indices in _spread_out(data, MOST):
            rows = data.load(indices)
            found = rows.box[:, 2] > rows.box[:, 0]
            keypoints = rows.keypoints[found].to(denoiser.device)
            shown.append(faces(rows.latents[found].to(denoiser.device).float(), keypoints, decoder))
            wanted.append(centred(rows.face[found], data.mean_face).to(denoiser.device))
        x, y = torch.cat(shown), torch.cat(wanted)
        x, y = x - x.mean(0), y - y.mean(0)
        weights = ridge_regression(x, y)
        return cls(decoder, weights / F.linear(x, weights).square().sum(1).mean().sqrt())


@dataclass(frozen=True, eq=False)
class LinearIdentityLoss(Loss):
    """w ‖P(ẑ) − P(z)‖² with the linear recogniser P and w from `noise_weight`.

    A prediction that contains nothing of what P measures has ‖P(ẑ) − P(z)‖² = 1 on average. A recogniser network fails
    on blurred predictions, and with a large weight its loss leads to pictures that satisfy the recogniser but show no
    face. A squared error after a linear map has the same minimum as the diffusion loss at every noise level. It gives
    most weight to features that distinguish people.
    """

    linear: LinearRecogniser

    def per_row(self, step_data: StepData) -> Tensor:
        rows = self.chosen(step_data).nonzero()[:, 0]
        missed = self.linear(step_data.clean[rows] - step_data.rows.latents[rows], step_data.rows.keypoints[rows])
        return spread(missed.square().sum(-1) * noise_weight(step_data)[rows], rows, len(step_data.t))


@dataclass(frozen=True)
class LinearIdentitySettings(LossSettings):
    name = "linear identity"
    formula = "w ‖P(ẑ) − P(z)‖², at every t"
    requires = "a data set of 32 people or more, the VAE"

    linear_identity: float = setting(
        0.0,
        "Weight of the identity loss through a linear recogniser, fitted to a data set of 32 people or more; it "
        "works at every noise level.",
        0,
    )

    def check_inputs(self, stage, inputs: LossInputs) -> None:
        check_people(inputs.data)
        if inputs.denoiser is not None and not inputs.denoiser.can_decode:
            raise FaceCDMError(
                f"the stage {stage.name!r} has linear_identity, which needs a VAE: connect one, or set it to 0"
            )

    def make(self, inputs: LossInputs) -> LinearIdentityLoss:
        if inputs.data not in _fitted:
            _fitted[inputs.data] = LinearRecogniser.fit(inputs.denoiser, inputs.data)
        return LinearIdentityLoss(_fitted[inputs.data].to(inputs.denoiser.device))


_fitted: WeakKeyDictionary[Source, LinearRecogniser] = WeakKeyDictionary()  # once for all stages


def check_people(data: Source) -> None:
    """Raise FaceCDMError if the data set has too few people to learn how people differ."""
    if count_people(data) < FEWEST_PEOPLE:
        raise FaceCDMError(
            f"linear_identity needs a data set of at least {FEWEST_PEOPLE} people and this one has "
            f"{count_people(data)}: set it to 0"
        )


def noise_weight(step_data: StepData) -> Tensor:
    """Weights [B]: min(1, SNR) for ε, since its ẑ is divided by the signal; 1 for v and for a flow."""
    if step_data.denoiser.prediction != "epsilon":
        return torch.ones_like(step_data.signal)
    return (step_data.signal / step_data.noise_level.clamp(min=1e-4)).square().clamp(max=1)


def faces(latents: Tensor, keypoints: Tensor, decoder: Tensor) -> Tensor:
    """Latents [B, C, h, w] → aligned faces [B, 3·28²] through `decoder`; 0 outside the picture."""
    return F.avg_pool2d(upright(decoded(latents, decoder), keypoints), POOL).flatten(1)


def decoded(latents: Tensor, decoder: Tensor) -> Tensor:
    """Latents [B, C, h, w] → pixels [B, 3, p·h, p·w] by a linear decoder [3·p², C, 1, 1]."""
    return F.pixel_shuffle(F.conv2d(latents, decoder), round((len(decoder) / 3) ** 0.5))


def linear_decoder(denoiser: Denoiser, data: Source) -> Tensor:
    """The linear map from latents to each position's pixels that best approximates the autoencoder's decoder."""
    channels, height, width = data.latent_shape(0)
    latents, patches = [], []
    for indices in _spread_out(data, max(POSITIONS // (height * width), BATCH), DECODED):
        some = data.load(indices).latents.to(denoiser.device).float()
        pixels = denoiser.decode(some)
        latents.append(some.movedim(1, -1).reshape(-1, channels))
        patches.append(F.pixel_unshuffle(pixels, pixels.shape[-1] // some.shape[-1]).movedim(1, -1).flatten(0, -2))
    x, y = torch.cat(latents), torch.cat(patches)
    return ridge_regression(x - x.mean(0), y - y.mean(0), 1e-4)[:, :, None, None]


def ridge_regression(x: Tensor, y: Tensor, share: float = RIDGE) -> Tensor:
    """The ridge solution [D, W] of y [N, D] ≈ x [N, W] · solutionᵀ, both centred (Hoerl & Kennard 1970)."""
    x, y = x.double(), y.double()
    return solve_ridge(x.T @ x, x.T @ y, share).T.contiguous()


def solve_ridge(gram: Tensor, crossed: Tensor, share: float) -> Tensor:
    """The solution [W, D], float32, of the same regression, computed from xᵀx [W, W] and xᵀy [W, D]."""
    gram = gram.double()
    gram = gram + share * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return torch.linalg.solve(gram, crossed.double()).float()


def _spread_out(data: Source, most: int, batch: int = BATCH):
    """Batches of pictures of one size, taken evenly from the data set."""
    for bucket in data.buckets:
        chosen = bucket[:: max(-(-len(data) // most), 1)]
        yield from (chosen[at : at + batch] for at in range(0, len(chosen), batch))
