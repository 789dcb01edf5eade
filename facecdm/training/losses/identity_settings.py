"""Settings of the identity loss, computed on one prediction or after a few sampling steps."""

from dataclasses import dataclass

import numpy as np
import torch

from ...errors import FaceCDMError
from ..held_out import count_people
from ..settings import setting, share
from .arcface import ArcFace
from .few_steps import BEGIN, FewStepIdentityLoss
from .identity import TOWARD, IdentityLoss, NegativeBank, person_means
from .linear import FEWEST_PEOPLE
from .loss import LossInputs, LossSettings

MOST_OTHERS = 4096  # people in the bank of the contrastive loss


@dataclass(frozen=True)
class IdentitySettings(LossSettings):
    name = "identity"
    formula = "1 − cos(R(x̂), f), for t < `identity_below`; with `few_steps`, x̂ after so many sampling steps"
    requires = "a recogniser's ONNX file, the VAE"

    identity: float = setting(0.0, "Weight of the identity loss on the predicted picture.", 0)
    identity_below: int = setting(300, "Timestep below which rows have an identity loss, in 0 … 1000.", 0)
    identity_every: int = setting(1, "Steps between identity losses.", 1)
    identity_ramp: int = setting(0, "Steps over which the identity loss's weight grows.", 0)
    identity_toward: str = setting(
        "picture",
        "Target embedding: of the picture itself, of its person (the mean over all their pictures), or of the "
        "reference.",
        choices=TOWARD,
    )
    few_steps: int = setting(0, "Sampling steps before the identity loss; 0: it uses the prediction of one step.", 0)
    few_steps_from: str = setting(
        "picture",
        "Start of these sampling steps: the row's own noisy picture, or pure noise as in a user's graph. Noise costs "
        "few_steps calls of the base model with gradients, and needs an adapter that is conditioned on face location.",
        choices=BEGIN,
    )
    few_steps_guidance: float = setting(
        1.0, "Classifier-free guidance scale of these sampling steps, as a sampler's cfg; 1: none."
    )
    few_steps_learnt: int = setting(1, "Number of these sampling steps with gradients, counted from the last.", 1)
    contrast: float = share(0.0, "Weight, within the identity loss, of the contrast with other people.")

    @property
    def every(self) -> int:
        return self.identity_every

    @property
    def ramp(self) -> int:
        return self.identity_ramp

    def check(self) -> None:
        if self.few_steps and self.few_steps_learnt > self.few_steps:
            raise FaceCDMError(
                f"few_steps_learnt must be in 1 … few_steps ({self.few_steps}); got {self.few_steps_learnt}"
            )

    def check_inputs(self, stage, inputs: LossInputs) -> None:
        if inputs.recogniser is None:
            raise FaceCDMError(
                f"the stage {stage.name!r} has an identity loss, and no recogniser was given: name InsightFace's "
                f"ONNX file that embedded the data set ({inputs.data.recogniser}), or set identity to 0"
            )
        located = inputs.adapter.config.spatial_tokens and stage.drop_pose < 1
        if self.few_steps and self.few_steps_from == "noise" and not located:
            raise FaceCDMError(
                f"the stage {stage.name!r} has few_steps_from: noise, which needs an adapter conditioned on face "
                "location, so that the recogniser knows where the face is. Train a new adapter with a square number "
                "of face tokens on 32 people or more, with drop_pose below 1; or set few_steps_from: picture"
            )

    def make(self, inputs: LossInputs) -> IdentityLoss:
        data, device = inputs.data, inputs.denoiser.device
        # The mean of a few people contains their identity: for one person, it is that identity.
        mean = data.mean_face.to(device) if count_people(data) >= FEWEST_PEOPLE else None
        shared = dict(
            recogniser=ArcFace(inputs.recogniser).to(device),
            high=self.identity_below,
            toward=self.identity_toward,
            persons=person_means(data, mean).to(device) if self.identity_toward == "person" else None,
            mean=mean,
            bank=_bank(data, device) if self.contrast else None,
            contrast=self.contrast,
        )
        if not self.few_steps:
            return IdentityLoss(**shared)
        return FewStepIdentityLoss(
            steps=self.few_steps,
            learnt=self.few_steps_learnt,
            begin=self.few_steps_from,
            guidance=self.few_steps_guidance,
            **shared,
        )


def _bank(data, device: torch.device) -> NegativeBank:
    """A bank of every n-th picture of the data set, at most MOST_OTHERS."""
    pictures = np.sort(np.concatenate([np.asarray(bucket) for bucket in data.buckets]))
    chosen = pictures[:: -(-len(pictures) // MOST_OTHERS)].tolist()
    return NegativeBank(
        data.features(chosen, vision=False)[0].to(device),
        torch.tensor([data.identity(index) for index in chosen], device=device),
    )
