"""A small Stable Diffusion 3.5 in ComfyUI and in diffusers, and made-up files of InstantX's IP-Adapter for it."""

import torch
from flux import patcher_of
from published import _mlp, _perceiver, random_state
from tensors import fill_randomly

BLOCKS = HEADS = 3
WIDTH, TEXT, POOLED = 64 * HEADS, 40, 24
CLIPS = (("l", 8), ("g", 16))  # widths, POOLED together


def make_model(
    dtype=torch.float32,
    seed: int = 0,
    dual: tuple[int, ...] = (),
    blocks: int = BLOCKS,
    heads: int = HEADS,
    text: int = TEXT,
):
    """A ComfyUI MODEL with random weights; `dual` are blocks with a second attention, as in SD3.5 Medium."""
    import comfy.supported_models

    linear = dict(in_features=text, out_features=64 * heads)
    config = dict(
        in_channels=16,
        patch_size=2,
        input_size=None,
        depth=heads,
        num_blocks=blocks,
        adm_in_channels=POOLED,
        context_embedder_config=dict(target="torch.nn.Linear", params=linear),
        num_patches=256,
        pos_embed_max_size=16,
        pos_embed_scaling_factor=None,
        qk_norm="rms",
        x_block_self_attn_layers=list(dual),
    )
    patcher = patcher_of(comfy.supported_models.SD3(config), dtype, seed, norms="ln_")
    patcher.model.diffusion_model.pos_embed.normal_(generator=torch.Generator().manual_seed(seed))  # a buffer
    return patcher


def make_clip():
    """Small CLIP-L and CLIP-G without T5, as core's loader takes two files; core pads their features to 4,096."""
    import comfy.sd
    from comfy.supported_models_base import ClipTarget
    from comfy.text_encoders.sd3_clip import SD3Tokenizer, sd3_clip

    small = dict(num_hidden_layers=3, num_attention_heads=2, intermediate_size=32)
    options = {f"clip_{kind}_model_config": small | dict(hidden_size=size, projection_dim=size) for kind, size in CLIPS}
    target = ClipTarget(SD3Tokenizer, sd3_clip(t5=False))
    clip = comfy.sd.CLIP(target, model_options=options | {"dtype": torch.float32})
    fill_randomly(clip.cond_stage_model, 2, norms="norm", bias=0.1)
    return clip


def make_twins(blocks: int = BLOCKS, heads: int = HEADS):
    """(ComfyUI's MODEL, diffusers' SD3Transformer2DModel) of the same weights; `heads` are at least `blocks`."""
    from comfy.model_detection import convert_diffusers_mmdit
    from diffusers import SD3Transformer2DModel

    theirs = SD3Transformer2DModel(
        sample_size=16,
        num_layers=blocks,
        num_attention_heads=heads,
        joint_attention_dim=TEXT,
        caption_projection_dim=64 * heads,
        pooled_projection_dim=POOLED,
        pos_embed_max_size=16,
        qk_norm="rms_norm",
    )
    fill_randomly(theirs, 0, norms="norm_", bias=0.1)
    model = make_model(blocks=blocks, heads=heads)
    state = {key: value.clone() for key, value in theirs.state_dict().items()}  # the conversion writes into some
    state = convert_diffusers_mmdit(state)
    if heads > blocks:
        for end in ("weight", "bias"):  # core exchanges these halves in the block whose number is `heads - 1`
            key = f"joint_blocks.{blocks - 1}.context_block.adaLN_modulation.1.{end}"
            state[key] = torch.cat(state[key].chunk(2)[::-1])
    model.model.diffusion_model.load_state_dict(state, strict=True)
    return model, theirs.requires_grad_(False).eval()


@torch.no_grad()
def diffusers_prediction(transformer, x, sigma: float, conditioning, states=None):
    """The velocity of diffusers' transformer; `states` [B, M, W] are an IP-Adapter's, from a vision tower."""
    ((text, options),) = conditioning
    return transformer(
        hidden_states=x,
        timestep=torch.full((len(x),), 1000 * sigma),
        encoder_hidden_states=text.expand(len(x), -1, -1),
        pooled_projections=options["pooled_output"].expand(len(x), -1),
        joint_attention_kwargs=None if states is None else {"ip_adapter_image_embeds": states},
        return_dict=False,
    )[0]


def adapter_shapes(
    width: int = WIDTH, blocks: int = BLOCKS, inner: int = 64, tower: int = 36, tokens: int = 5, waves: int = 32
) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of a file; `inner` is the resampler's width and `tower` that of the vision tower's states."""
    shapes = {"latents": (1, tokens, inner)} | _perceiver(tower, inner, inner // 64, width)
    more = [("time_embedding.linear_1", (inner, waves)), ("time_embedding.linear_2", (inner, inner))]
    shapes |= _mlp([*more, *((f"layers.{i}.2.1", (4 * inner, inner)) for i in range(4))])
    shapes = {f"image_proj.{key}": shape for key, shape in shapes.items()}
    for number in range(blocks):
        own = _mlp([("norm_ip.linear", (2 * width, inner))])
        own |= {f"to_{part}_ip.weight": (width, width) for part in "kv"}
        own |= {f"norm_{part}.weight": (64,) for part in ("q", "k", "ip_k")}
        shapes |= {f"ip_adapter.{number}.{key}": shape for key, shape in own.items()}
    return shapes


def adapter_state(seed: int = 5, **sizes) -> dict:
    return random_state(adapter_shapes(**sizes), seed)
