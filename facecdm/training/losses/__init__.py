"""The losses of the three stages (docs/losses.md), each a function of a `StepData`."""

from .alignment import AlignmentLoss, BackgroundLoss
from .arcface import ArcFace, align
from .bottleneck import BottleneckLoss
from .diffusion import DiffusionLoss
from .few_steps import FewStepIdentityLoss
from .identity import Bank, IdentityLoss, persons_of
from .linear import LinearIdentityLoss, LinearRecogniser
from .localisation import LocalisationLoss
from .loss import Loss

__all__ = [
    "AlignmentLoss",
    "ArcFace",
    "BackgroundLoss",
    "Bank",
    "BottleneckLoss",
    "DiffusionLoss",
    "FewStepIdentityLoss",
    "IdentityLoss",
    "LinearIdentityLoss",
    "LinearRecogniser",
    "LocalisationLoss",
    "Loss",
    "align",
    "persons_of",
]
