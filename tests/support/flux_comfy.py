"""A small Flux.1's CLIP and VAE in ComfyUI, of random weights, beside the MODEL of support/flux.py."""

import torch
from tensors import fill_randomly

CONTEXT, POOLED = 40, 24


def make_clip(kind: str):
    """CLIP-L and T5 of small sizes, with their own tokenizers; for "Chroma" T5 alone."""
    import comfy.sd
    from comfy.supported_models_base import ClipTarget
    from comfy.text_encoders.flux import FluxClipModel, FluxTokenizer
    from comfy.text_encoders.pixart_t5 import PixArtTokenizer, pixart_te

    small = dict(num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    options = {
        "clip_l_model_config": {"hidden_size": POOLED, "projection_dim": POOLED} | small,
        "t5xxl_model_config": dict(d_model=CONTEXT, d_kv=16, d_ff=32, num_layers=1, num_heads=2),
        "dtype": torch.float32,
    }
    target = ClipTarget(PixArtTokenizer, pixart_te()) if kind == "Chroma" else ClipTarget(FluxTokenizer, FluxClipModel)
    clip = comfy.sd.CLIP(target, model_options=options)
    fill_randomly(clip.cond_stage_model, 2, norms="norm", bias=0.1)
    return clip


def make_vae():
    """An autoencoder of 16 channels that has one eighth of the pixels along each side."""
    import comfy.sd

    sizes = dict(z_channels=16, resolution=64, in_channels=3, out_ch=3, ch=32, ch_mult=[1, 1, 1, 1], num_res_blocks=1)
    sizes |= dict(attn_resolutions=[], dropout=0.0, double_z=True)
    vae = comfy.sd.VAE(sd={}, config={"params": {"ddconfig": sizes, "embed_dim": 16}}, dtype=torch.float32)
    fill_randomly(vae.first_stage_model, 3, norms="norm", bias=0.1)
    vae.latent_channels = 16
    return vae
