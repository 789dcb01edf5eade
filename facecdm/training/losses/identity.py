"""The identity loss: the predicted picture, seen by a recogniser."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..source import Source
from ..step_data import StepData
from .arcface import ArcFace
from .loss import Loss, centred, spread


@dataclass(frozen=True, eq=False)
class Bank:
    """Other people to tell a face from: raw `embeddings` [M, D] and whose they are, `identity` [M] int64."""

    embeddings: Tensor
    identity: Tensor


@dataclass(frozen=True, eq=False)
class IdentityLoss(Loss):
    """1 − cos of the embedding of the predicted picture to that of the person, at low noise.

    recogniser   on the denoiser's device
    high         steps below it: what one step predicts from more noise is too blurred for a recogniser
    toward       whose embedding is wanted, "picture": of the picture itself; "person": the mean of all pictures of its
                 person, which no single one's chance is in; "reference": that which the adapter was shown
    persons      for "person": unit vectors [people, D], by the person's number, `mean` taken off
    mean         mean unit embedding [D] of the data set, taken off both; recognisers' embeddings share a part
    bank         with it, InfoNCE against other people is added, `contrast` times, at `temperature` (WithAnyone 2025)
    """

    recogniser: ArcFace
    high: int = 300
    low: int = 0
    toward: str = "picture"
    persons: Tensor | None = None
    mean: Tensor | None = None
    bank: Bank | None = None
    contrast: float = 0.1
    temperature: float = 0.1
    name = "identity"

    def __post_init__(self) -> None:
        if self.toward not in ("picture", "person", "reference"):
            raise ValueError(f'toward is "picture", "person" or "reference", not {self.toward!r}')
        if self.toward == "person" and self.persons is None:
            raise ValueError('toward is "person", and there are no persons')

    def per_row(self, step_data: StepData) -> Tensor:
        rows = self.chosen(step_data).nonzero()[:, 0]
        if not len(rows):
            return step_data.prediction.new_zeros(len(step_data.t), dtype=torch.float32)
        pixels = step_data.denoiser.decode(self.latents(step_data, rows))
        seen = centred(self.recogniser.embed(pixels, step_data.rows.keypoints[rows]), self.mean)
        wanted = self.wanted(step_data, rows).to(seen)
        likeness = (seen * wanted).sum(-1)
        loss = 1 - likeness
        if self.bank is not None:
            loss = loss + self.contrast * self.against(seen, likeness, step_data.rows.identity[rows])
        return spread(loss, rows, len(step_data.t))

    def latents(self, step_data: StepData, rows: Tensor) -> Tensor:
        """The predicted latents [k, C, h, w] of the rows [k]."""
        return step_data.clean[rows]

    def wanted(self, step_data: StepData, rows: Tensor) -> Tensor:
        """Unit vectors [k, D], centred: what the pictures of the rows [k] should have."""
        if self.toward == "person":
            return self.persons[step_data.rows.identity[rows].to(self.persons.device)]
        shown = step_data.rows.face if self.toward == "picture" else step_data.reference_batch.face
        return centred(shown[rows], self.mean)

    def against(self, seen: Tensor, likeness: Tensor, identity: Tensor) -> Tensor:
        """InfoNCE [k]: −log softmax of the likeness to oneself among that to the others of the bank."""
        others = seen @ centred(self.bank.embeddings.to(seen.device), self.mean).T
        same = identity.to(seen.device)[:, None] == self.bank.identity.to(seen.device)
        others = (others / self.temperature).masked_fill(same, float("-inf"))
        own = likeness / self.temperature
        return F.softplus(others.logsumexp(-1) - own)


def persons_of(data: Source, mean: Tensor | None) -> Tensor:
    """Unit vectors [people, D] by the person's number: the mean of all embeddings of each, `mean` taken off."""
    sums = torch.zeros(max(data.people) + 1, len(data.mean_face))
    for person, pictures in data.people.items():
        sums[person] = centred(data.features(pictures, vision=False)[0], mean).sum(0)
    return F.normalize(sums, dim=-1)
