"""How much memory training takes, computed: per base, picture size and batch, without running it or having a GPU.

    python benchmarks/training_memory.py --comfyui DIR [--rank 16]

The model runs on tensors without contents, and everything that autograd would keep for the backward pass is counted:
LoRA on the linear layers of its attentions (in Flux.1's single blocks, these hold the MLP, too), a face and an image
stream beside the text; for a DiT the cells of a new adapter. bf16 arithmetic.
"""

import argparse
from pathlib import Path

from shared import DITS, base_of_dit, dit_arguments, make_model, open_comfyui, plain_attention

BYTES, GIB = 2, 2**30


class Kept:
    """Bytes that autograd keeps, each storage once; those of the model's own weights do not count."""

    def __init__(self, model):
        self._known = {value.untyped_storage()._cdata for value in model.parameters()}
        self._alive: list = []  # keeps storages alive, so that their addresses are not reused
        self.total = 0

    def pack(self, tensor):
        storage = tensor.untyped_storage()._cdata
        if storage not in self._known:
            self._known.add(storage)
            self._alive.append(tensor)
            self.total += tensor.untyped_storage().nbytes()
        return tensor


def count(base: str, latent: int, rank: int) -> dict[str, float]:
    """Compute the memory of a training.

    weights   GiB
    kept      GiB that autograd keeps per picture
    repeated  the same with gradient checkpointing
    lora      number of trained weights
    """
    import torch
    from comfy.ldm.modules.attention import BasicTransformerBlock
    from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock

    from facecdm.adapter.attention import LayerStream
    from facecdm.hosts.comfy.training.denoiser import _linears, _TrainedAttention
    from facecdm.hosts.comfy.training.gradients import Call
    from facecdm.hosts.comfy.unet import cross_attentions, layer_map
    from facecdm.training.lora import Lora
    from facecdm.training.repeated import CALL

    meta, dtype = torch.device("meta"), torch.bfloat16
    with meta:
        model = make_model(base, meta, dtype)
        unet, widths = model.model.diffusion_model, [layer.width for layer in layer_map(model).layers]
        unet.requires_grad_(False)
        linears = dict(_linears(model))
        lora = Lora.new(linears, rank)
        x, context = torch.randn(1, 4, latent, latent, dtype=dtype), layer_map(model).context
        tokens = [[torch.randn(1, n, width, dtype=dtype, requires_grad=True) for n in (4, 4, 8, 8)] for width in widths]
        people = [
            [
                LayerStream(0, 1, k, v, torch.ones(1, 1, width, dtype=dtype, requires_grad=True))
                for k, v in (some[:2], some[2:])
            ]
            for some, width in zip(tokens, widths)
        ]
        text, vector = torch.randn(1, 77, context, dtype=dtype), torch.randn(1, 2816, dtype=dtype)
    options = {
        "patches_replace": {
            "attn2": {key: _TrainedAttention(i) for i, (key, _, _) in enumerate(cross_attentions(model))}
        },
        "optimized_attention_override": plain_attention,
        CALL: Call(people, None),
    }
    with lora.on(linears):
        kept, repeated = kept_by(
            unet,
            (ResBlock, BasicTransformerBlock),
            lambda: unet(
                x,
                torch.zeros(1, device=meta),
                context=text,
                y=vector if base == "SDXL" else None,
                transformer_options=options,
            ),
        )
    learns = sum(value.numel() for part in lora.parts.values() for value in part.parameters())
    return {
        "weights": sum(value.numel() for value in unet.parameters()) * BYTES / GIB,
        "kept": kept,
        "repeated": repeated,
        "lora": learns,
    }


def count_dit(base: str, latent: int, rank: int, tokens: int = 256) -> dict[str, float]:
    """`count` for a DiT; `tokens` of text."""
    import torch

    from facecdm.adapter.attention import LayerStream
    from facecdm.adapter.config import AdapterConfig
    from facecdm.adapter.model import TripletAdapter
    from facecdm.adapter.stream_module import AFTER_BLOCK, parts_of
    from facecdm.hosts.comfy.training.dit_blocks import blocks_of
    from facecdm.training.blocks import TokenCounts, hooked
    from facecdm.training.lora import Lora

    layers, dtype = base_of_dit(base).layer_map, torch.bfloat16
    width = layers.layers[0].width
    with torch.device("meta"):
        dit = DITS[base]().requires_grad_(False)
        config = AdapterConfig.new(layers, image_width=1280)
        adapter = TripletAdapter(config)
        linears = {name: part for name, part in dit.named_modules() if _is_attention(name, part)}
        lora = Lora.new(linears, rank)
        gate = torch.ones(1, 1, width, dtype=dtype, requires_grad=True)
        people = [[] for _ in layers.layers]
        for name, count in (("face", 4), ("image", 8)):
            for index, part in parts_of(adapter)[name].items():
                k, v = torch.randn(2, 1, count, config.cell_width, dtype=dtype, requires_grad=True)
                people[index].append(LayerStream(0, 1, k, v, gate, place=AFTER_BLOCK, part=part))
    counts = TokenCounts(tokens, (latent // 2) ** 2, tokens)
    blocks, options = blocks_of(dit), {"optimized_attention_override": plain_attention}
    values, more = dit_arguments(base, latent, tokens)
    with lora.on(linears), hooked(blocks, counts, people, None, False):
        kept, repeated = kept_by(
            dit,
            tuple({type(block.module) for block in blocks}),
            lambda: dit(*values, transformer_options=options, **more),
        )
    learns = sum(value.numel() for part in lora.parts.values() for value in part.parameters())
    weights = sum(value.numel() for value in dit.parameters())
    cells = sum(value.numel() for value in adapter.parameters())
    return {"weights": weights * BYTES / GIB, "kept": kept, "repeated": repeated, "lora": learns, "adapter": cells}


def _is_attention(name: str, part) -> bool:
    import torch

    kinds = ("img_attn.", "txt_attn.", "single_blocks.", ".attn.", ".attn2.", ".attention.")
    refining = name.startswith(("noise_refiner.", "context_refiner."))
    is_own = any(kind in name for kind in kinds) and "modulation" not in name and not refining
    return isinstance(part, torch.nn.Linear) and is_own


def count_decoder(latent: int) -> tuple[float, float]:
    """GiB that decoding one picture keeps for the identity loss, by the autoencoder of SD1.5 and SDXL."""
    from unittest.mock import patch

    import comfy.ldm.modules.diffusionmodules.model as parts
    import torch
    from comfy.ldm.models.autoencoder import AutoencoderKL

    sizes = dict(
        double_z=True,
        z_channels=4,
        resolution=256,
        in_channels=3,
        out_ch=3,
        ch=128,
        ch_mult=[1, 2, 4, 4],
        num_res_blocks=2,
        attn_resolutions=[],
        dropout=0.0,
    )
    with torch.device("meta"), patch.object(parts, "vae_attention", lambda: parts.pytorch_attention):
        vae = AutoencoderKL(ddconfig=sizes, embed_dim=4).to(torch.bfloat16).requires_grad_(False)
        latents = torch.randn(1, 4, latent, latent, dtype=torch.bfloat16, requires_grad=True)
    return kept_by(vae, (parts.ResnetBlock, parts.AttnBlock), lambda: vae.decode(latents))


def kept_by(model, blocks: tuple[type, ...], call) -> tuple[float, float]:
    """GiB that `call` keeps; and where the insides of `blocks` are computed again, of one block at a time."""
    import torch

    kept, inside, inputs = Kept(model), [], []

    def enter(module, values, named):
        names = ("img", "txt", "hidden_states", "encoder_hidden_states")
        others = (value for value in values[1:] if isinstance(value, torch.Tensor) and value.ndim == 3)  # SD3.5's
        states = [*values[:1], *others, *(named[name] for name in names if name in named)]
        inputs.append(sum(value.numel() for value in states) * BYTES)
        inside.append(-kept.total)

    def leave(module, values, out):
        inside[-1] += kept.total

    for part in model.modules():
        if isinstance(part, blocks):
            part.register_forward_pre_hook(enter, with_kwargs=True)
            part.register_forward_hook(leave)
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor), _fused():
        call()
    return kept.total / GIB, (kept.total - sum(inside) + sum(inputs) + max(inside)) / GIB


def _fused():
    """Attention as a GPU's kernels have it: queries, keys, values and the result are kept, no matrix of weights."""
    from unittest.mock import patch

    import torch

    class Fused(torch.autograd.Function):
        @staticmethod
        def forward(ctx, q, k, v):
            out = torch.empty_like(q)
            ctx.save_for_backward(q, k, v, out)
            return out

        @staticmethod
        def backward(ctx, grad):
            raise NotImplementedError

    return patch("torch.nn.functional.scaled_dot_product_attention", lambda q, k, v, **_: Fused.apply(q, k, v))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, required=True)
    parser.add_argument("--rank", type=int, default=16)
    arguments = parser.parse_args()
    open_comfyui(arguments.comfyui, cpu=True)
    print(
        "| base | pixels | weights | LoRA and AdamW | a picture | with checkpointing | batch 1 | batch 4 "
        "| batch 4, checkpointing |\n|---|---|---|---|---|---|---|---|---|"
    )
    for base, latent in (("SD1.5", 64), ("SD1.5", 96), ("SDXL", 96), ("SDXL", 128)):
        found = count(base, latent, arguments.rank)
        learning = found["lora"] * 16 / GIB  # float32: value, gradient, two moments
        fixed = found["weights"] + learning
        print(
            f"| {base} | {8 * latent} | {found['weights']:.2f} | {learning:.2f} | {found['kept']:.2f} | "
            f"{found['repeated']:.2f} | {fixed + found['kept']:.1f} | {fixed + 4 * found['kept']:.1f} | "
            f"{fixed + 4 * found['repeated']:.1f} |",
            flush=True,
        )
    print(
        "\n| base | pixels | weights bf16, fp8 | adapter and AdamW | LoRA and AdamW | a picture | with checkpointing "
        "| batch 1, checkpointing, bf16 | fp8 |\n|---|---|---|---|---|---|---|---|---|"
    )
    for base, latent in ((base, latent) for base in DITS for latent in (64, 128)):
        found = count_dit(base, latent, arguments.rank)
        adapter, lora = (found[name] * 16 / GIB for name in ("adapter", "lora"))
        fixed = adapter + lora + found["repeated"]
        print(
            f"| {base} | {8 * latent} | {found['weights']:.1f}, {found['weights'] / 2:.1f} | {adapter:.1f} "
            f"| {lora:.2f} | {found['kept']:.1f} | {found['repeated']:.1f} | {fixed + found['weights']:.1f} "
            f"| {fixed + found['weights'] / 2:.1f} |",
            flush=True,
        )
    print("\n| decoding for the identity loss, pixels | a picture | with checkpointing |\n|---|---|---|")
    for latent in (64, 96, 128):
        print("| {} | {:.2f} | {:.2f} |".format(8 * latent, *count_decoder(latent)), flush=True)


if __name__ == "__main__":
    main()
