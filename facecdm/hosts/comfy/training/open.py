"""The denoiser of a ComfyUI MODEL, of whichever kind it is."""

from ..dit import is_dit
from .denoiser import ComfyDenoiser
from .dit import ComfyDitDenoiser


def open_denoiser(model, vae=None, control=None) -> ComfyDenoiser | ComfyDitDenoiser:
    """A `Denoiser` of the MODEL; see ComfyDenoiser. Raises UnsupportedModel."""
    kind = ComfyDitDenoiser if is_dit(model) else ComfyDenoiser
    return kind(model, vae, control)
