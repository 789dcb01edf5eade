"""Poses: key points of people in OpenPose's order, their extraction, editing and drawing. Runs without ComfyUI."""

from .value import Pose, PosePerson

__all__ = ["Pose", "PosePerson"]
