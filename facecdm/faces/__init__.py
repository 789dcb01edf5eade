"""Faces: detection, embedding, alignment, comparison, files. Runs without ComfyUI."""

from .value import Face, Faces

__all__ = ["Face", "Faces"]
