"""What adapters cost on a GPU: seconds and peak memory per step, on U-Nets and on Flux.1 at full depth.

    python benchmarks/gpu.py --comfyui DIR [--ipadapter-plus DIR] [--pulid-flux-ll DIR] [--small]

Random weights. SD1.5 at 512 px and SDXL at 1,024 px, one picture and four, with CFG; Flux.1-dev in bf16 (24 GB) at
1,024 px. The folders are clones of other packs, which are then measured, too. --small tries the script on a CPU.
"""

import argparse
import gc
from pathlib import Path

import dit_speed
import speed
from shared import SMALL, TABLE, open_comfyui


def unet_rows(ipadapter_plus: Path | None, small: bool) -> list[str]:
    rows = []
    for base, latent in (("SD1.5", 64), ("SDXL", 128)):
        for batch in (1, 4):
            steps, rounds, sizes = (1, 1, SMALL) if small else (5, 2, {})
            rows += speed.benchmark(base, 16 if small else latent, steps, rounds, batch, ipadapter_plus, **sizes)
            release()
    return rows


def flux_rows(pulid_flux_ll: Path | None, small: bool) -> list[str]:
    if not small:
        return dit_speed.benchmark(*dit_speed.FULL, 1024, 5, 2, pulid_flux_ll)
    import flux
    from published_flux import SMALL_FLUX

    base = {key: value for key, value in flux.SMALL.items() if not key.startswith("depth")}
    return dit_speed.benchmark(3, 5, 128, 1, 2, base=base, adapters=SMALL_FLUX)


def release() -> None:
    import comfy.model_management

    gc.collect()
    comfy.model_management.soft_empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, required=True)
    parser.add_argument("--ipadapter-plus", type=Path, help="a clone of ComfyUI_IPAdapter_plus")
    parser.add_argument("--pulid-flux-ll", type=Path, help="a clone of ComfyUI_PuLID_Flux_ll")
    parser.add_argument("--small", action="store_true", help="small models, to try the script")
    arguments = parser.parse_args()
    open_comfyui(arguments.comfyui)
    from comfy.cli_args import args

    args.use_pytorch_cross_attention = True
    print(TABLE, flush=True)
    print("\n".join(unet_rows(arguments.ipadapter_plus, arguments.small)), flush=True)
    print("\n" + "\n".join(flux_rows(arguments.pulid_flux_ll, arguments.small)), flush=True)


if __name__ == "__main__":
    main()
