"""What finding the face costs in a step of SD1.5 and SDXL, counted on tensors without contents.

    python benchmarks/location_operations.py --comfyui DIR

A step is the U-Net's call for one picture with CFG, 512 × 512 pixels for SD1.5 and 1,024 × 1,024 for SDXL. Finding the
face is the location head and the locations made from it for each resolution with cross-attention, of an adapter with
1,024 face tokens. Operations are those of convolutions, matrix products and attentions (torch's FlopCounterMode).
Kernels and bytes are the calls that make a tensor and what they write, which count where a GPU waits for memory.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

from shared import CONFIGS, make_model, open_comfyui  # isort: skip
from at_scale import count_operations, plain_attention
from work import Work

BASES = {"SD1.5": (64, (64, 32, 16, 8)), "SDXL": (128, (64, 32))}  # latents, grids with cross-attention
TOKENS, DTYPE = 1024, torch.float16


def step(base: str) -> Callable[[], object]:
    """A call of the U-Net with CFG."""
    latent, _ = BASES[base]
    unet = make_model(base, torch.device("meta"), DTYPE).model.diffusion_model
    shapes = (2, 4, latent, latent), (2, 77, CONFIGS[base]["context_dim"]), (2, 2816)
    x, text, vector = (torch.empty(*shape, dtype=DTYPE) for shape in shapes)
    options = {"optimized_attention_override": plain_attention}
    vector = vector if base == "SDXL" else None
    return lambda: unet(x, torch.zeros(2), context=text, y=vector, transformer_options=options)


def finding(base: str) -> Callable[[], object]:
    """The face's location in a step, on every grid. The first call moves the head."""
    from facecdm.adapter.config import AdapterConfig
    from facecdm.adapter.location_finder import LocationFinder, Prediction
    from facecdm.adapter.model import TripletAdapter
    from facecdm.bases import BASES as KNOWN

    latent, grids = BASES[base]
    sizes = {"image_width": 0, "face_tokens": TOKENS, "spatial_tokens": True, "location_channels": 4}
    finder = LocationFinder(TripletAdapter(AdapterConfig(KNOWN[base].layer_map, **sizes)))
    before = Prediction(torch.empty(1, 4, latent, latent), torch.ones(1))

    def find() -> None:
        location = finder(before, (latent, latent), before.clean.device)
        for grid in grids:
            location.everywhere(grid**2, DTYPE)

    find()
    return find


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, required=True)
    open_comfyui(parser.parse_args().comfyui, cpu=True)
    print("| base | operations, G | kernels | written, MB |\n|---|---|---|---|")
    with torch.device("meta"), torch.no_grad():
        for base in BASES:
            counted = []
            for call in (step(base), finding(base)):
                with Work() as work:
                    call()
                counted.append((count_operations(call) / 1e9, work.kernels, work.written / 1e6))
            for name, (operations, kernels, megabytes) in zip(("a step", "finding the face"), counted):
                print(f"| {base}: {name} | {operations:,.2f} | {kernels} | {megabytes:,.1f} |")
            print(f"| {base}: share | " + " | ".join(f"{own / all:.2%}" for all, own in zip(*counted)) + " |")


if __name__ == "__main__":
    main()
