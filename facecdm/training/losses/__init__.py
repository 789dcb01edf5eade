"""The losses of the three stages (docs/losses.md), each a function of a `Moment`."""

from .arcface import ArcFace, align
from .diffusion import DiffusionLoss
from .identity import Bank, IdentityLoss
from .loss import Loss

__all__ = ["ArcFace", "Bank", "DiffusionLoss", "IdentityLoss", "Loss", "align"]
