"""What an adapter on millions of pictures takes, computed: operations, throughput, disk, days and cost.

    python benchmarks/at_scale.py --comfyui DIR [--utilisation 0.35] [--price 3] [--gpus 8 32]

The operations of a base model's call are counted on tensors without contents, as torch's FlopCounterMode counts them.
A step calls the frozen model forward and back to its inputs (as many operations as forward, since weights get no
gradients), and with gradient checkpointing forward once more. The rest is arithmetic on the assumptions below. Nothing
is measured.
"""

import argparse
from functools import partial
from pathlib import Path

from shared import DITS, base_of_dit, dit_arguments, full_flux, make_model, open_comfyui, plain_attention
from work import Work

# Peak dense bf16 operations a second, from lists of others; --utilisation is the share of them that a training reaches.
GPUS = {"A100": 312e12, "H100": 989e12}
HALF, GB = 2, 1e9
# Values of a picture at 1024 × 1024 pixels: latents, states and pooled vector of the prompt, vision states (ViT-H).
VISION = 257 * 1280
VALUES = {
    "SDXL": 4 * 128**2 + 77 * 2048 + 1280 + VISION,
    "Flux.1": 16 * 128**2 + 256 * 4096 + 768 + VISION,  # T5 with 256 tokens, the least that ComfyUI encodes
}
FACE = 512 * 4 + 5 * 2 * 4 + 106 * 2 * 4 + 1500  # embedding, key points, landmarks, and the line of pictures.jsonl


def count_operations(call) -> float:
    with Work() as work:
        call()
    return work.flops


def operations() -> dict[str, float]:
    """Operations of one call of each base model for one picture of 1024 × 1024 pixels."""
    import torch

    meta, dtype = torch.device("meta"), torch.bfloat16
    options = {"optimized_attention_override": plain_attention}
    with meta, torch.no_grad():
        unet = make_model("SDXL", meta, dtype).model.diffusion_model
        x, text, vector = (torch.randn(*shape, dtype=dtype) for shape in ((1, 4, 128, 128), (1, 77, 2048), (1, 2816)))
        t = torch.zeros(1)
        found = {"SDXL": count_operations(lambda: unet(x, t, context=text, y=vector, transformer_options=options))}
        dit = full_flux()
        x, text, vector = (torch.randn(*shape, dtype=dtype) for shape in ((1, 16, 128, 128), (1, 256, 4096), (1, 768)))
        found["Flux.1"] = count_operations(
            lambda: dit(x, t, text, y=vector, guidance=torch.zeros(1), transformer_options=options)
        )
    return found


def cells(latent: int = 128, tokens: int = 256) -> None:
    """Print the operations of one call of each DiT, and those of a new adapter's cells with two streams."""
    import torch

    from facecdm.adapter.config import AdapterConfig

    print("\n| base | TFLOP a call | cells | TFLOP of the cells | share, % |\n|---|---|---|---|---|")
    options = {"optimized_attention_override": plain_attention}
    for base, make in DITS.items():
        values, more = dit_arguments(base, latent, tokens)
        with torch.no_grad():
            once = count_operations(partial(make(), *values, transformer_options=options, **more)) / 1e12
        config = AdapterConfig.new(base_of_dit(base).layer_map)
        count, width = len(config.cells_at), config.layer_map.layers[0].width
        # Two matrices a cell and stream, two operations a weight and token; the few keys hardly count.
        added = 2 * count * 2 * 2 * (latent // 2) ** 2 * width * config.cell_width / 1e12
        print(f"| {base} | {once:.1f} | {count} | {added:.2f} | {100 * added / once:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, required=True)
    parser.add_argument("--utilisation", type=float, default=0.35)
    parser.add_argument("--price", type=float, default=3.0, help="of a GPU hour")
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--pictures", type=float, nargs="+", default=[1e6, 5e6])
    parser.add_argument("--epochs", type=float, default=10)
    arguments = parser.parse_args()
    open_comfyui(arguments.comfyui, cpu=True)
    print("| base | TFLOP a call | checkpointing | GPU | pictures a second | read, MB/s |\n|---|---|---|---|---|---|")
    rates, size = {}, {base: values * HALF + FACE for base, values in VALUES.items()}
    for base, once in operations().items():
        for checkpointing, calls in (("off", 2), ("on", 3)):
            for gpu, peak in GPUS.items():
                rate = rates[base, checkpointing, gpu] = peak * arguments.utilisation / (calls * once)
                read = rate * 2 * size[base] / 1e6  # a reference is read for every picture, at most as large
                print(f"| {base} | {once / 1e12:.1f} | {checkpointing} | {gpu} | {rate:.1f} | {read:.0f} |")
    print("\n| base | pictures | on disk, TB | shards | GPUs | days | GPU hours | cost |")
    print("|---|---|---|---|---|---|---|---|")
    for base in VALUES:
        for pictures in arguments.pictures:
            hours = pictures * arguments.epochs / rates[base, "on", "H100"] / 3600
            stages = 3 + 1  # faces, latents, text, vision: shards of 128 pictures
            for gpus in arguments.gpus:
                print(
                    f"| {base} | {pictures / 1e6:g} M | {pictures * size[base] / 1e12:.1f} | "
                    f"{stages * pictures / 128:,.0f} | {gpus} × H100 | {hours / gpus / 24:.1f} | {hours:,.0f} | "
                    f"{hours * arguments.price:,.0f} |"
                )
    cells()


if __name__ == "__main__":
    main()
