"""Poses: key points of people, as OpenPose orders and draws them. Usable without ComfyUI."""

from .value import Person, Pose

__all__ = ["Person", "Pose"]
