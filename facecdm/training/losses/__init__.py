"""The training losses (docs/losses.md). To add one, write a file and append its settings to `LOSSES`."""

from .alignment import AlignmentLoss, AlignmentSettings, BackgroundLoss, BackgroundSettings
from .arcface import ArcFace, align
from .bottleneck import BottleneckLoss, BottleneckSettings
from .diffusion import DiffusionLoss, DiffusionSettings
from .few_steps import FewStepIdentityLoss
from .identity import IdentityLoss, NegativeBank, person_means
from .identity_settings import IdentitySettings
from .linear import LinearIdentityLoss, LinearIdentitySettings, LinearRecogniser
from .localisation import LocalisationLoss, LocalisationSettings
from .loss import Loss, LossInputs, LossSettings

# In the order of the terms, the widgets, and the rows in the docs.
LOSSES: tuple[type[LossSettings], ...] = (
    DiffusionSettings,
    BottleneckSettings,
    IdentitySettings,
    LinearIdentitySettings,
    LocalisationSettings,
    AlignmentSettings,
    BackgroundSettings,
)

__all__ = [
    "LOSSES",
    "AlignmentLoss",
    "ArcFace",
    "BackgroundLoss",
    "NegativeBank",
    "BottleneckLoss",
    "DiffusionLoss",
    "FewStepIdentityLoss",
    "IdentityLoss",
    "LinearIdentityLoss",
    "LinearRecogniser",
    "LocalisationLoss",
    "Loss",
    "LossInputs",
    "LossSettings",
    "align",
    "person_means",
]
