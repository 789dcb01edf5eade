"""A small Flux.1 as diffusers saves it: transformer, autoencoder, scheduler, two text encoders and their tokenizers."""

from pathlib import Path

import flux
import flux_twins
import torch

CONTEXT, POOLED = 40, 24


def make_folder(folder: Path, comfyui: Path):
    """Write the folder, and return its pipeline."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    sizes = flux.SMALL | {"context_in_dim": CONTEXT} | flux_twins.BLOCKS
    transformer = FluxTransformer2DModel(**flux_twins.diffusers_sizes(sizes))
    small = dict(hidden_size=POOLED, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    dynamic = dict(use_dynamic_shifting=True, shift=3.0, base_shift=0.5, max_shift=1.15)
    clip, t5 = tokenizers(comfyui)
    pipeline = FluxPipeline(
        FlowMatchEulerDiscreteScheduler(**dynamic),
        small_vae(),
        CLIPTextModel(CLIPTextConfig(**small, vocab_size=49408, eos_token_id=49407)).eval(),
        clip,
        small_t5(),
        t5,
        transformer,
    )
    pipeline.save_pretrained(folder)
    return pipeline


def tokenizers(comfyui: Path) -> tuple:
    """CLIP's and T5's, from ComfyUI's folders."""
    from transformers import AutoTokenizer, CLIPTokenizer

    clip = CLIPTokenizer.from_pretrained(comfyui / "comfy" / "sd1_tokenizer", model_max_length=77)
    return clip, AutoTokenizer.from_pretrained(comfyui / "comfy" / "text_encoders" / "t5_tokenizer")


def small_t5():
    from transformers import T5Config, T5EncoderModel

    sizes = dict(d_model=CONTEXT, d_kv=16, d_ff=32, num_layers=1, num_heads=2, vocab_size=32128)
    return T5EncoderModel(T5Config(**sizes, feed_forward_proj="gated-gelu")).eval()


def small_vae():
    """An autoencoder with the scale and shift of Flux.1's latents."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=(8, 8, 8, 8),
        norm_num_groups=4,
        latent_channels=16,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
