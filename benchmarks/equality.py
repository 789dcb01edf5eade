"""Difference between ComfyUI with FaceCDM and diffusers' own load_ip_adapter in full-size U-Nets, by family.

    python benchmarks/equality.py --comfyui DIR [--base SD1.5 SDXL] [--family faceid-plusv2 …]

Random weights, shared tensors, fp32, one prompt and one negative prompt at CFG 3. It prints the largest difference of
the noise predictions as part of the largest value; the tests allow 1e-4. SD1.5 needs 6 GB of memory, SDXL 16.
"""

import argparse
import gc
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from shared import ROOT, open_comfyui

sys.path[:0] = [str(ROOT / "tests" / "support"), str(ROOT / "tests" / "formats")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--comfyui", type=Path, required=True)
    parser.add_argument("--base", nargs="+", choices=["SD1.5", "SDXL"], default=["SD1.5", "SDXL"])
    parser.add_argument("--family", nargs="+")
    parser.add_argument("--size", type=int, default=8, help="side of the latents")
    arguments = parser.parse_args()
    open_comfyui(arguments.comfyui, cpu=True)
    worst = max(compare_base(base, arguments.family, arguments.size) for base in arguments.base)
    print(f"largest: {worst:.1e}")
    return 0 if worst <= 1e-4 else 1


def compare_base(base: str, families: list[str] | None, size: int) -> float:
    import published
    from test_equality import DIFFUSERS, compare
    from twins import FULL_SD15, SMALL_SDXL, make_twins

    from facecdm.bases import BASES

    full_sdxl = SimpleNamespace(
        name="SDXL",
        comfy=SMALL_SDXL.comfy
        | dict(
            model_channels=320,
            context_dim=2048,
            transformer_depth=[0, 0, 2, 2, 10, 10],
            transformer_depth_middle=10,
            transformer_depth_output=[0, 0, 0, 2, 2, 2, 10, 10, 10],
        ),
        diffusers=SMALL_SDXL.diffusers
        | dict(
            block_out_channels=[320, 640, 1280],
            cross_attention_dim=2048,
            attention_head_dim=[5, 10, 20],
            transformer_layers_per_block=[1, 2, 10],
        ),
    )
    started = time.perf_counter()
    twins = make_twins(full_sdxl if base == "SDXL" else FULL_SD15)
    sizes = published.SDXL if base == "SDXL" else published.SD15
    print(f"{base}: made in {time.perf_counter() - started:.0f} s", flush=True)
    worst = 0.0
    for family in families or DIFFUSERS:
        started = time.perf_counter()
        state = published.published_state(family, BASES[base].layer_map, sizes, lora_rank=0)
        off = compare(twins, sizes, [family], [state], size=size, check=False)
        print(f"{base}  {family:24}  {off:.1e}  ({time.perf_counter() - started:.0f} s)", flush=True)
        worst = max(worst, off)
        del state
        gc.collect()
    return worst


if __name__ == "__main__":
    raise SystemExit(main())
