"""The axis of frames that the latents of some ComfyUI models have; for a picture its length is 1."""

from torch import Tensor

from ...errors import Mismatch, UnsupportedModel


def has_frames(latent_format) -> bool:
    return latent_format.latent_dimensions == 3


def with_frames(latents: Tensor, latent_format) -> Tensor:
    """[B, C, h, w] as a model of this format takes them: [B, C, h, w] or [B, C, 1, h, w]."""
    return latents.unsqueeze(2) if has_frames(latent_format) else latents


def without_frames(latents: Tensor) -> Tensor:
    """[B, C, h, w] or [B, C, 1, h, w] → [B, C, h, w]. Raises UnsupportedModel for more than one frame."""
    if latents.ndim == 4:
        return latents
    if latents.shape[2] != 1:
        raise UnsupportedModel(
            f"FaceCDM acts on single pictures, and these latents have {latents.shape[2]} frames or layers: sample "
            "without Apply FaceCDM, or one picture"
        )
    return latents.squeeze(2)


def check_vae(vae, latent_format) -> None:
    """Raise Mismatch if a VAE makes other latents than a model of this format takes."""
    made, taken = (
        f"{channels} channels" + (" and frames" if axes == 3 else "")
        for channels, axes in (
            (vae.latent_channels, getattr(vae, "latent_dim", 2)),
            (latent_format.latent_channels, latent_format.latent_dimensions),
        )
    )
    if made != taken:
        raise Mismatch(
            f"the VAE makes latents of {made}, and the MODEL takes {taken}: connect the VAE that belongs to the MODEL"
        )
