"""Small Flux models in ComfyUI, and a reference of their forward pass with residuals after blocks."""

import importlib

import pytest
import torch
from tensors import fill_randomly
from torch.nn import functional as F

SMALL = dict(hidden_size=48, num_heads=2, axes_dim=[4, 10, 10], context_in_dim=40, depth=3, depth_single_blocks=5)
# Flux.1's widths, with one block where it has 19 and two where it has 38.
NARROW = dict(
    hidden_size=3072, num_heads=24, axes_dim=[16, 56, 56], context_in_dim=4096, depth=1, depth_single_blocks=2
)


def skip_without_query_patches() -> None:
    """Skip a test that reads the base model's queries if this ComfyUI has no patches for it."""
    from comfyui_version import __version__

    if tuple(int(number) for number in __version__.split(".")[:2]) < (0, 29):
        pytest.skip(f"ComfyUI {__version__} has no attn1_output_patch in Flux' blocks; 0.29 has")


def config(kind: str, **sizes) -> dict:
    """Flux.1-dev's configuration at small sizes, for the models of this version of ComfyUI."""
    own = dict(
        image_model=kind,
        in_channels=16,
        out_channels=16,
        vec_in_dim=24,
        mlp_ratio=4.0,
        theta=10000,
        patch_size=2,
        qkv_bias=True,
        guidance_embed=True,
    )
    return own | SMALL | sizes | _known_to(kind, txt_ids_dims=[])


def make_flux(dtype=torch.float32, seed: int = 0, computed_in=None, **sizes):
    """A ComfyUI MODEL of Flux.1-dev's kind with random weights, which are cast to `computed_in` at every use."""
    import comfy.supported_models

    return patcher_of(comfy.supported_models.Flux(config("flux", **sizes)), dtype, seed, computed_in)


def make_chroma(dtype=torch.float32, seed: int = 0, **sizes):
    import comfy.supported_models

    unet_config = dict(
        image_model="chroma",
        in_channels=64,
        out_channels=64,
        mlp_ratio=4.0,
        theta=10000,
        patch_size=2,
        qkv_bias=True,
        in_dim=64,
        out_dim=48,
        hidden_dim=32,
        n_layers=1,
        **(SMALL | sizes),
        **_known_to("chroma", txt_ids_dims=[], vec_in_dim=None),
    )
    return patcher_of(comfy.supported_models.Chroma(dict(unet_config)), dtype, seed)


def _known_to(kind: str, **parameters) -> dict:
    """Those of the parameters that the model's class has in this version of ComfyUI."""
    module = importlib.import_module(f"comfy.ldm.{kind}.model")
    known = getattr(module, f"{kind.capitalize()}Params").__dataclass_fields__
    return {name: value for name, value in parameters.items() if name in known}


def patcher_of(config, dtype, seed: int, computed_in=None, norms: str = "scale"):
    """A ModelPatcher on the CPU; ComfyUI leaves new weights uninitialised."""
    import comfy.model_patcher

    config.set_inference_dtype(dtype, computed_in)
    model = config.get_model({}, device=torch.device("cpu")).eval().requires_grad_(False)
    fill_randomly(model.diffusion_model, seed, norms, bias=1.0)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, cpu, cpu)


def latents(size=(8, 12), batch: int = 1, seed: int = 9):
    return torch.randn(batch, 16, *size, generator=torch.Generator().manual_seed(seed))


def prompt(model, seed: int = 1, tokens: int = 7, **more):
    """CONDITIONING with random text for a Flux.1 or a Stable Diffusion 3."""
    from facecdm.hosts.comfy.base_model import layer_map

    generator = torch.Generator().manual_seed(seed)
    width = layer_map(model).context
    text, pooled = (torch.randn(1, *shape, generator=generator) for shape in ((tokens, width), (24,)))
    return [[text, {"pooled_output": pooled, "guidance": 3.5, **more}]]


@torch.no_grad()
def reference(model, x, sigma: float, conditioning, residual=None, references=()):
    """The velocity of a Flux MODEL, computed block by block.

    residual    (index of the block, image tokens) → what is added to the picture's tokens after it, or None
    references  reference latents, whose tokens follow the picture's
    """
    from comfy.ldm.flux.layers import timestep_embedding

    flux, ((text, options),) = model.model.diffusion_model, conditioning
    parts = [flux.process_img(x)]
    height, width = x.shape[-2:]
    across = down = 0
    for one in references:  # the default method of ComfyUI
        h, w = one.shape[-2:]
        offset = (0, across) if h + down > w + across else (down, 0)
        parts.append(flux.process_img(one, index=1, h_offset=offset[0], w_offset=offset[1]))
        down, across = max(down, h + offset[0]), max(across, w + offset[1])
    img, img_ids = (torch.cat([part[i] for part in parts], 1) for i in (0, 1))
    rows, count = len(x), parts[0][0].shape[1]
    text = text.expand(rows, -1, -1)
    time = flux.time_in(timestep_embedding(torch.full((rows,), sigma), 256))
    guidance = flux.guidance_in(timestep_embedding(torch.full((rows,), options["guidance"]), 256))
    vec = time + guidance + flux.vector_in(options["pooled_output"].expand(rows, -1))
    img, txt = flux.img_in(img), flux.txt_in(text)
    pe = flux.pe_embedder(torch.cat([torch.zeros(rows, txt.shape[1], 3), img_ids], 1))

    def with_residual(index: int, hidden, start: int):
        before, own, after = hidden.split([start, count, hidden.shape[1] - start - count], 1)
        added = residual(index, own) if residual else None
        return hidden if added is None else torch.cat([before, own + added, after], 1)

    for index, block in enumerate(flux.double_blocks):
        img, txt = block(img=img, txt=txt, vec=vec, pe=pe)
        img = with_residual(index, img, 0)
    hidden = torch.cat([txt, img], 1)
    for index, block in enumerate(flux.single_blocks, len(flux.double_blocks)):
        hidden = with_residual(index, block(hidden, vec=vec, pe=pe), txt.shape[1])
    out = flux.final_layer(hidden[:, txt.shape[1] :], vec)[:, :count]
    grid = out.reshape(rows, (height + 1) // 2, (width + 1) // 2, 16, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return grid.flatten(4).flatten(2, 3)[..., :height, :width]


def reference_with_attention(model, x, sigma: float, conditioning, added):
    """The velocity with an attention of the blocks' own queries, by hooks on the modules of the base model: on the
    queries' norm, and before the output projection.

    added  (number of the block, the picture's queries [B, H, n, D]) → what is added to their attention [B, n, H·D]
    """
    dit = model.model.diffusion_model
    count, doubles, queries, hooks = x.shape[-1] * x.shape[-2] // 4, len(dit.double_blocks), {}, []

    def read(number: int):
        def hook(module, inputs, output):
            queries[number] = output[:, :, -count:]

        return hook

    def add(number: int):
        def hook(module, inputs):
            out = inputs[0].clone()
            out[:, -count:, : dit.hidden_size] += added(number, queries[number])
            return (out,)

        return hook

    for number, block in enumerate([*dit.double_blocks, *dit.single_blocks]):
        double = number < doubles
        norms, out = (block.img_attn.norm, block.img_attn.proj) if double else (block.norm, block.linear2)
        hooks += [norms.query_norm.register_forward_hook(read(number)), out.register_forward_pre_hook(add(number))]
    try:
        return reference(model, x, sigma, conditioning)
    finally:
        for hook in hooks:
            hook.remove()


def cell(state: dict, name: str, tokens, x, heads: int, mask=None):
    """The residual of one published cell for image tokens x [B, n, C], as its authors' equations have it.

    mask  bool [n, N], which tokens each position attends to
    """

    def norm(part: str, value):
        return F.layer_norm(value, value.shape[-1:], state[f"{name}.{part}.weight"], state[f"{name}.{part}.bias"])

    def split(value):
        return value.unflatten(-1, (heads, -1)).transpose(1, 2)

    q = split(norm("norm2", x) @ state[f"{name}.to_q.weight"].T)
    k, v = (split(part) for part in (norm("norm1", tokens) @ state[f"{name}.to_kv.weight"].T).chunk(2, -1))
    scale = q.shape[-1] ** -0.25
    scores = (q * scale) @ (k * scale).transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    out = scores.softmax(-1).nan_to_num() @ v  # a position outside of every box gets nothing
    return out.transpose(1, 2).flatten(2) @ state[f"{name}.to_out.weight"].T


@torch.inference_mode()
def make_quantised_pair(**sizes):
    """(MODEL with core's layers for scaled fp8 files, MODEL with the dequantised weights in bf16), made in the mode in
    which nodes run.

    The scales are powers of two, and the biases have values of fp8, as which ComfyUI 0.3.75 keeps them; so both models'
    values are equal to the bit.
    """
    import comfy.supported_models
    import comfy.utils

    dense = make_flux(torch.bfloat16, **sizes)
    model = dense.model.diffusion_model
    state, scale = dict(model.state_dict()), torch.tensor(2.0**-9)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            if module.bias is not None:
                module.bias.copy_(module.bias.to(torch.float8_e4m3fn))
            weight = (module.weight / scale).clamp(-448, 448).to(torch.float8_e4m3fn)
            state |= {f"{name}.weight": weight, f"{name}.scale_weight": scale}
            module.weight.data = weight.bfloat16() * scale.bfloat16()
    quantised = comfy.supported_models.Flux(config("flux", **sizes))
    if hasattr(comfy.utils, "convert_old_quants"):  # ComfyUI 0.33: one kind of layer for all quantised files
        state, _ = comfy.utils.convert_old_quants(state | {"scaled_fp8": torch.zeros(0, dtype=torch.float8_e4m3fn)})
        quantised.quant_config = comfy.utils.detect_layer_quantization(state, "")
        assert quantised.quant_config
    else:
        quantised.scaled_fp8 = torch.float8_e4m3fn
    patcher = patcher_of(quantised, torch.bfloat16, 0, torch.bfloat16)
    patcher.model.diffusion_model.load_state_dict(state, strict=True)
    return patcher, dense
