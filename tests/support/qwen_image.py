"""A small Qwen-Image in ComfyUI and in diffusers, its CLIP and its VAE, of random weights."""

from unittest.mock import patch

import torch
from flux import patcher_of
from tensors import fill_randomly
from torch.nn import functional as F

CONTEXT, BLOCKS = 40, 3
SIZES = dict(num_layers=BLOCKS, attention_head_dim=24, num_attention_heads=2, joint_attention_dim=CONTEXT)
SIZES |= dict(axes_dims_rope=(4, 10, 10))


def make_model(dtype=torch.float32, seed: int = 0, computed_in=None):
    import comfy.supported_models

    config = dict(image_model="qwen_image", in_channels=64, **SIZES)
    return patcher_of(comfy.supported_models.QwenImage(config), dtype, seed, computed_in, norms="norm")


def make_transformer():
    from diffusers import QwenImageTransformer2DModel

    transformer = QwenImageTransformer2DModel(**SIZES)
    fill_randomly(transformer, 0, norms="norm", bias=0.1)
    return transformer.requires_grad_(False).eval()


def make_twins():
    """(ComfyUI's MODEL, diffusers' QwenImageTransformer2DModel) of the same weights, whose names are the same."""
    model, transformer = make_model(), make_transformer()
    model.model.diffusion_model.load_state_dict(transformer.state_dict(), strict=True)
    return model, transformer


@torch.no_grad()
def diffusers_prediction(transformer, x, sigma: float, conditioning):
    """The velocity of diffusers' transformer for latents [B, 16, h, w]."""
    ((text, _),) = conditioning
    grid = x.shape[-2] // 2, x.shape[-1] // 2
    (out,) = transformer(
        F.pixel_unshuffle(x, 2).flatten(2).transpose(1, 2),
        text.expand(len(x), -1, -1),
        timestep=torch.full((len(x),), sigma),
        img_shapes=[[(1, *grid)]] * len(x),
        return_dict=False,
    )
    return F.pixel_shuffle(out.transpose(1, 2).unflatten(2, grid), 2)


def make_clip():
    """A small Qwen2.5-VL without its vision tower, which text does not use, and the model's own tokenizer."""
    import comfy.sd
    from comfy.supported_models_base import ClipTarget
    from comfy.text_encoders.qwen_image import QwenImageTokenizer, te

    sizes = dict(hidden_size=CONTEXT, intermediate_size=32, num_hidden_layers=2)
    sizes |= dict(num_attention_heads=1, num_key_value_heads=1)
    options = {"qwen25_7b_model_config": sizes, "dtype": torch.float32}
    with patch("comfy.text_encoders.qwen_vl.Qwen2VLVisionTransformer", lambda **_: torch.nn.Identity()):
        clip = comfy.sd.CLIP(ClipTarget(QwenImageTokenizer, te()), model_options=options)
    fill_randomly(clip.cond_stage_model, 2, norms="norm", bias=0.1)
    return clip


def make_vae():
    """A small autoencoder of videos, as core's loader makes it from its weights."""
    import comfy.sd
    from comfy.ldm.wan.vae import WanVAE

    sizes = dict(z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2, temperal_downsample=[False, True, True])
    made = WanVAE(dim=4, **sizes)
    fill_randomly(made, 3, norms="gamma", bias=0.1)
    return comfy.sd.VAE(sd=made.state_dict(), dtype=torch.float32)
