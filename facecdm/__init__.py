"""FaceCDM: pictures of a fixed face, by triplet cross-attention. Usable without ComfyUI."""

__version__ = "0.1.0"
