"""Poses: key points of people, as OpenPose orders and draws them. Usable without ComfyUI."""

from .value import Pose, PosePerson

__all__ = ["Pose", "PosePerson"]
