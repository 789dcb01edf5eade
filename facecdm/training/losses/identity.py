"""The identity loss, which compares the predicted picture's face embedding with the person's."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..source import Source
from ..step_data import StepData
from .arcface import ArcFace
from .loss import Loss, centred, spread

TOWARD = ("picture", "person", "reference")


@dataclass(frozen=True, eq=False)
class NegativeBank:
    """Negatives for the contrastive loss.

    embeddings   [M, D] raw
    identity     [M] int64, the person's number for each
    """

    embeddings: Tensor
    identity: Tensor


@dataclass(frozen=True, eq=False)
class IdentityLoss(Loss):
    """1 − cos between the embedding of the predicted picture and the target embedding, at low noise.

    recogniser    the recogniser, on the denoiser's device
    low, high     timesteps low ≤ t < high; at more noise, one step gives too blurred a picture for a recogniser
    toward        the target embedding: that of the "picture"; of the "person", the mean over all their pictures, which
                  averages out details of single pictures; or of the "reference" that the adapter was given
    persons       for "person": unit vectors [people, D] by the person's number, centred with `mean`
    mean          mean unit embedding [D] of the data set, subtracted from both, since all embeddings share it
    bank          adds InfoNCE against other people, weighted by `contrast`, at `temperature` (WithAnyone 2025)
    """

    recogniser: ArcFace
    high: int = 300
    low: int = 0
    toward: str = "picture"
    persons: Tensor | None = None
    mean: Tensor | None = None
    bank: NegativeBank | None = None
    contrast: float = 0.1
    temperature: float = 0.1

    def __post_init__(self) -> None:
        if self.toward not in TOWARD:
            raise ValueError(f"toward must be one of {', '.join(TOWARD)}; got {self.toward!r}")
        if self.toward == "person" and self.persons is None:
            raise ValueError('toward "person" needs persons')

    def per_row(self, step_data: StepData) -> Tensor:
        rows = self.chosen(step_data).nonzero()[:, 0]
        if not len(rows):
            return step_data.prediction.new_zeros(len(step_data.t), dtype=torch.float32)
        latents = self.latents(step_data, rows)
        pixels, keypoints = step_data.denoiser.decode(latents), self.keypoints(step_data, rows, latents)
        embedding = centred(self.recogniser.embed(pixels, keypoints), self.mean)
        similarity = (embedding * self.wanted(step_data, rows).to(embedding)).sum(-1)
        loss = 1 - similarity
        if self.bank is not None:
            loss = loss + self.contrast * self.contrastive(embedding, similarity, step_data.rows.identity[rows])
        return spread(loss, rows, len(step_data.t))

    def latents(self, step_data: StepData, rows: Tensor) -> Tensor:
        """The predicted clean latents [k, C, h, w] of the rows [k]."""
        return step_data.clean[rows]

    def keypoints(self, step_data: StepData, rows: Tensor, latents: Tensor) -> Tensor:
        """The key points [k, 5, 2] of the faces in `latents`, in 0…1 of the picture."""
        return step_data.rows.keypoints[rows]

    def wanted(self, step_data: StepData, rows: Tensor) -> Tensor:
        """The target embeddings of the rows [k]: centred unit vectors [k, D]."""
        if self.toward == "person":
            return self.persons[step_data.rows.identity[rows].to(self.persons.device)]
        face = step_data.rows.face if self.toward == "picture" else step_data.reference_batch.face
        return centred(face[rows], self.mean)

    def contrastive(self, embedding: Tensor, similarity: Tensor, identity: Tensor) -> Tensor:
        """InfoNCE [k]: −log softmax of the similarity to the row's person against other people in the bank."""
        others = embedding @ centred(self.bank.embeddings.to(embedding.device), self.mean).T
        same = identity.to(embedding.device)[:, None] == self.bank.identity.to(embedding.device)
        others = (others / self.temperature).masked_fill(same, float("-inf"))
        return F.softplus(others.logsumexp(-1) - similarity / self.temperature)


def person_means(data: Source, mean: Tensor | None) -> Tensor:
    """Unit vectors [people, D] by the person's number: the mean of each person's embeddings, centred with `mean`."""
    sums = torch.zeros(max(data.people) + 1, len(data.mean_face))
    for person, pictures in data.people.items():
        sums[person] = centred(data.features(pictures, vision=False)[0], mean).sum(0)
    return F.normalize(sums, dim=-1)
