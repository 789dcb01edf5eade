"""FaceCDM: identity-preserving portraits by triplet cross-attention. Usable without ComfyUI."""

__version__ = "0.1.0"
