"""A small Z-Image in ComfyUI and in diffusers, and its CLIP, of random weights."""

import torch
from flux import patcher_of
from tensors import fill_randomly

CONTEXT, BLOCKS = 40, 2
DIM, HEADS = 384, 3  # the least at which both hosts' feed-forward layers have one size
SIZES = dict(dim=DIM, n_layers=BLOCKS, n_refiner_layers=1, n_heads=HEADS, n_kv_heads=HEADS, cap_feat_dim=CONTEXT)
SIZES |= dict(axes_dims=[32, 48, 48], axes_lens=[1024, 512, 512])


def make_model(dtype=torch.float32, seed: int = 0, computed_in=None):
    import comfy.supported_models

    more = dict(image_model="lumina2", patch_size=2, in_channels=16, rope_theta=256.0, ffn_dim_multiplier=8 / 3)
    more |= dict(qk_norm=True, z_image_modulation=True, time_scale=1000.0, pad_tokens_multiple=32)
    return patcher_of(comfy.supported_models.ZImage(SIZES | more), dtype, seed, computed_in, norms="norm")


def make_transformer():
    from diffusers import ZImageTransformer2DModel
    from diffusers.models.transformers.transformer_z_image import TimestepEmbedder

    transformer = ZImageTransformer2DModel(**SIZES)
    transformer.t_embedder = TimestepEmbedder(256, mid_size=DIM)  # ComfyUI's size at this width
    fill_randomly(transformer, 0, norms="norm", bias=0.1)
    return transformer.requires_grad_(False).eval()


def make_twins():
    """(ComfyUI's MODEL, diffusers' ZImageTransformer2DModel) of the same weights."""
    from comfy.utils import z_image_to_diffusers

    model, transformer = make_model(), make_transformer()
    state, theirs = model.model.diffusion_model.state_dict(), transformer.state_dict()
    names = z_image_to_diffusers(model.model.model_config.unet_config)
    for name, value in theirs.items():
        own, part = names[name] if isinstance(names[name], tuple) else (names[name], None)
        (state[own] if part is None else state[own].narrow(*part)).copy_(value)
    return model, transformer


@torch.no_grad()
def diffusers_prediction(transformer, x, sigma: float, conditioning):
    """The velocity of diffusers' transformer for latents [B, 16, h, w]."""
    ((text, _),) = conditioning
    texts = list(text.expand(len(x), -1, -1))
    (out,) = transformer(list(x[:, :, None]), torch.full((len(x),), 1 - sigma), texts, return_dict=False)
    return -torch.stack(list(out))[:, :, 0]


def make_clip():
    """A small Qwen3 and the model's own tokenizer."""
    import comfy.sd
    from comfy.supported_models_base import ClipTarget
    from comfy.text_encoders.z_image import ZImageTokenizer, te

    sizes = dict(hidden_size=CONTEXT, intermediate_size=32, num_hidden_layers=3)
    sizes |= dict(num_attention_heads=1, num_key_value_heads=1)
    options = {"qwen3_4b_model_config": sizes, "dtype": torch.float32}
    clip = comfy.sd.CLIP(ClipTarget(ZImageTokenizer, te()), model_options=options)
    fill_randomly(clip.cond_stage_model, 2, norms="norm", bias=0.1)
    return clip


def blocks_are_patched() -> bool:
    """Whether this ComfyUI calls patches after the blocks of Z-Image."""
    from comfyui_version import __version__

    return tuple(int(number) for number in __version__.split(".")[:2]) >= (0, 33)
