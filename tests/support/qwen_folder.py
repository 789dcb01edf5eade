"""Small folders of Qwen-Image and Z-Image as diffusers saves them."""

from pathlib import Path

import qwen_image
import torch

CONTEXT = qwen_image.CONTEXT


def tokenizer(comfyui: Path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(comfyui / "comfy" / "text_encoders" / "qwen25_tokenizer")


def make_qwen_image(folder: Path, comfyui: Path):
    """Write the folder, and return its pipeline."""
    from diffusers import AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler, QwenImagePipeline
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(0)
    dynamic = dict(use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, max_image_seq_len=8192)
    text = dict(hidden_size=CONTEXT, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    text |= dict(num_key_value_heads=1, vocab_size=151936, rope_scaling={"type": "mrope", "mrope_section": [4, 3, 3]})
    vision = dict(depth=1, hidden_size=16, num_heads=2, intermediate_size=16, out_hidden_size=CONTEXT)
    pipeline = QwenImagePipeline(
        FlowMatchEulerDiscreteScheduler(**dynamic),
        AutoencoderKLQwenImage(base_dim=4, num_res_blocks=1).eval(),
        Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision)).eval(),
        tokenizer(comfyui),
        qwen_image.make_transformer(),
    )
    pipeline.save_pretrained(folder)
    return pipeline


def make_z_image(folder: Path, comfyui: Path):
    """Write the folder, and return its pipeline."""
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
    from flux_folder import small_vae
    from transformers import Qwen3Config, Qwen3Model

    torch.manual_seed(0)
    text = dict(hidden_size=CONTEXT, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    text |= dict(num_key_value_heads=1, head_dim=16, vocab_size=151936)
    sizes = dict(dim=48, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=CONTEXT)
    words = tokenizer(comfyui)
    words.chat_template = (
        "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
        "{% endfor %}{{ '<|im_start|>assistant\n' }}"
    )
    pipeline = ZImagePipeline(
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        small_vae(),
        Qwen3Model(Qwen3Config(**text)).eval(),
        words,
        ZImageTransformer2DModel(**sizes, axes_dims=[4, 10, 10]).eval(),
    )
    pipeline.save_pretrained(folder)
    return pipeline
