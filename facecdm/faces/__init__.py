"""Faces: from pictures to embeddings, and what one does with them. Usable without ComfyUI."""

from .value import Face, Faces

__all__ = ["Face", "Faces"]
