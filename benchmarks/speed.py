"""The cost of an adapter: seconds and peak memory per step, without one, with one stream, with two.

    python benchmarks/speed.py --comfyui DIR [--base SD1.5 SDXL] [--latent 32] [--steps 5]

Full-size U-Nets of random weights, CFG (two conditionings), through ComfyUI's own sampling. Compare the ratios: seconds
depend on the machine. The variants take turns, so that other load affects all of them.
"""

import argparse
import time
from pathlib import Path
from statistics import median

from shared import CONFIGS, PeakMemory, make_model, open_comfyui


def make_adapter(model, streams: int):
    import torch

    from facecdm.adapter.config import AdapterConfig
    from facecdm.adapter.model import TripletAdapter
    from facecdm.hosts.comfy.unet import layer_map

    adapter = TripletAdapter(
        AdapterConfig(layer_map(model), image_width=1280 if streams == 2 else 0, image_tokens=16), torch.float16
    )
    for stream in adapter.streams.values():
        torch.nn.init.ones_(stream.gate.knots)
    return adapter.requires_grad_(False)


def measure(model, latent: int, steps: int, device) -> tuple[list[float], int]:
    """The seconds of each step after the first, and the peak memory in bytes."""
    import comfy.samplers
    import torch

    context = model.model.model_config.unet_config["context_dim"]
    # On a CPU the process' own time, which other load does not change.
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    seconds = []

    def sampler(denoise, noise, sigmas, extra_args=None, callback=None, disable=None):
        for step in range(steps + 1):
            started = clock()
            denoise(noise, sigmas[:1].expand(1), **extra_args)
            if device.type == "cuda":
                torch.cuda.synchronize()
            if step:
                seconds.append(clock() - started)
        return noise

    def prompt():
        return [[torch.randn(1, 77, context), {"pooled_output": torch.randn(1, 1280)}]]

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(prompt(), prompt())
    guider.set_cfg(5.0)
    x = torch.randn(1, 4, latent, latent)
    with PeakMemory(device) as memory, torch.inference_mode():
        guider.sample(
            x, torch.zeros_like(x), comfy.samplers.KSAMPLER(sampler), torch.tensor([5.0, 0.0]), disable_pbar=True
        )
    return seconds, memory.peak


def benchmark(base: str, latent: int, steps: int, rounds: int) -> list[str]:
    """Rows of a Markdown table."""
    import comfy.model_management
    import torch

    from facecdm.adapter.person import Person
    from facecdm.hosts.comfy.sampling.apply import apply_person

    device = comfy.model_management.get_torch_device()
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    plain = make_model(base, device, dtype)
    face, image = torch.nn.functional.normalize(torch.randn(1, 512), dim=1), torch.randn(1, 257, 1280)
    variants = {
        "plain": plain,
        "face": apply_person(plain, Person(make_adapter(plain, 1), face)),
        "face + image": apply_person(plain, Person(make_adapter(plain, 2), face, image)),
    }
    seconds, memory = {name: [] for name in variants}, dict.fromkeys(variants, 0)
    for model in variants.values():  # warm-up: memory is allocated
        measure(model, latent, 1, device)
    for _ in range(rounds):
        for name, model in variants.items():
            took, peak = measure(model, latent, steps, device)
            seconds[name] += took
            memory[name] = max(memory[name], peak)
    middle = {name: median(seconds[name]) for name in variants}
    return [
        f"| {base} {8 * latent} px | {name} | {middle[name]:.3f} | {middle[name] / middle['plain']:.3f} | "
        f"{memory[name] / 2**20:.0f} |"
        for name in variants
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, required=True)
    parser.add_argument("--base", nargs="+", choices=list(CONFIGS), default=list(CONFIGS))
    parser.add_argument("--latent", type=int, default=32, help="side of the latents; 64 is 512 px")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves the choice to torch")
    arguments = parser.parse_args()
    open_comfyui(arguments.comfyui)
    import torch
    from comfy.cli_args import args

    args.use_pytorch_cross_attention = True
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print("| base | streams | seconds a step | ratio | peak MiB |\n|---|---|---|---|---|", flush=True)
    for base in arguments.base:
        print("\n".join(benchmark(base, arguments.latent, arguments.steps, arguments.rounds)), flush=True)


if __name__ == "__main__":
    main()
