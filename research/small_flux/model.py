"""The small Flux: a `FluxTransformer2DModel` of 10 M parameters on the demo's latents.

The latents are 48 principal components at 16 × 16 positions of a picture. A token is a patch of 2 × 2 positions, as in
Flux.1, so a picture has 64 tokens.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from facecdm.bases.flux import FLUX
from facecdm.demo.train import load_checkpoint

GRID, CHANNELS, PATCH, WIDTH = 16, 48, FLUX.patch, 256
SHIFT = 0.5  # μ of Flux.1 for its smallest pictures
CHECKPOINT = "flux"  # name of the training's files in its folder


def build_flux(context: int) -> nn.Module:
    """The model with random weights, for a text encoder of the width `context`."""
    from diffusers import FluxTransformer2DModel

    model = FluxTransformer2DModel(
        patch_size=1,
        in_channels=CHANNELS * PATCH**2,
        num_layers=2,
        num_single_layers=5,
        attention_head_dim=64,
        num_attention_heads=WIDTH // 64,
        joint_attention_dim=context,
        pooled_projection_dim=context,
        guidance_embeds=False,
        axes_dims_rope=(16, 24, 24),
    )
    # As in DiT (Peebles and Xie 2023), blocks begin as the identity, and the prediction at zero.
    zero = (".norm.linear", ".norm1.linear", ".norm1_context.linear", "norm_out.linear", "proj_out")
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name.endswith(zero[:3]) or name in zero[3:]:
            nn.init.zeros_(module.weight)
    return model


def trained(folder: Path, context: int) -> nn.Module:
    """The model with the averaged weights of the last checkpoint in `folder`. Raises BadFile."""
    flux = build_flux(context)
    flux.load_state_dict(load_checkpoint(folder / f"{CHECKPOINT}.pt")["ema"])
    return flux.eval().requires_grad_(False)


def velocity(flux: nn.Module, latents: Tensor, t: Tensor, states: Tensor, pooled: Tensor) -> Tensor:
    """The predicted velocity [B, C, h, w] at the times t [B], computed in the latents' dtype."""
    rows, columns = latents.shape[-2] // PATCH, latents.shape[-1] // PATCH
    ids = torch.zeros(rows, columns, 3)
    ids[..., 1], ids[..., 2] = torch.arange(rows)[:, None], torch.arange(columns)
    (out,) = flux(
        F.pixel_unshuffle(latents, PATCH).flatten(2).transpose(1, 2),
        states.to(latents.dtype),
        pooled_projections=pooled.to(latents.dtype),
        timestep=t.to(latents.dtype),
        img_ids=ids.flatten(0, 1),
        txt_ids=torch.zeros(states.shape[1], 3),
        return_dict=False,
    )
    return F.pixel_shuffle(out.transpose(1, 2).unflatten(2, (rows, columns)), PATCH)
