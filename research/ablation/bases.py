"""The base model of the ablation, opened for training and for sampling."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from facecdm.adapter.attention import LayerStream
from facecdm.errors import FaceCDMError
from facecdm.hosts.diffusers.denoiser import DiffusersDenoiser, demo_denoiser

from .arms import Design


class FaceControlDenoiser(DiffusersDenoiser):
    """Its ControlNet reads the face tokens instead of the prompt (IdentityNet of InstantID, Wang et al. 2024).

    Without a person it reads one token of zeros, like a row whose face is dropped in training.
    """

    def control_context(self, states: Tensor, people: list[list[LayerStream]] | None) -> Tensor:
        if people is None:
            return torch.zeros_like(states[:, :1])
        return people[0][0].tokens.expand(len(states), -1, -1).to(states)


@dataclass(frozen=True, eq=False)
class Bases:
    """Denoisers with the same U-Net.

    plain         without a ControlNet, for training
    posed         with the pose ControlNet, for sampling; None without its file
    face_control  with a ControlNet that reads the face tokens, for both; None without its file
    """

    plain: DiffusersDenoiser
    posed: DiffusersDenoiser | None = None
    face_control: FaceControlDenoiser | None = None

    @classmethod
    def open(cls, weights, device: str, pose: Path | None) -> "Bases":
        plain = demo_denoiser(weights, device)
        if pose is None:
            return cls(plain)
        return cls(
            plain, demo_denoiser(weights, device, pose), demo_denoiser(weights, device, pose, kind=FaceControlDenoiser)
        )

    def training(self, design: Design) -> DiffusersDenoiser:
        """Raises FaceCDMError for a design with a ControlNet if there is none."""
        if design.face_control and self.face_control is None:
            raise FaceCDMError("this design trains the pose ControlNet: name its file with --pose")
        return self.face_control if design.face_control else self.plain

    def sampling(self, design: Design) -> DiffusersDenoiser:
        return self.face_control if design.face_control else self.posed or self.plain
