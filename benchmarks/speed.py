"""What people cost: seconds and peak memory a step, plain / one stream / two streams, in one run.

    python benchmarks/speed.py --comfyui DIR [--base SD1.5 SDXL] [--latent 32] [--steps 5]

Full-size U-Nets of random weights, CFG (two conditionings), through ComfyUI's own sampling. The ratio to the plain
model is what counts; seconds depend on the machine. The variants take turns, so that a busy machine treats them alike.
"""

import argparse
import gc
import sys
import threading
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

COMMON = dict(
    image_size=32,
    in_channels=4,
    out_channels=4,
    use_spatial_transformer=True,
    legacy=False,
    use_temporal_attention=False,
    use_temporal_resblock=False,
    model_channels=320,
)
CONFIGS = {
    "SD1.5": COMMON
    | dict(
        num_res_blocks=[2] * 4,
        channel_mult=[1, 2, 4, 4],
        context_dim=768,
        num_heads=8,
        transformer_depth=[1, 1, 1, 1, 1, 1, 0, 0],
        transformer_depth_middle=1,
        transformer_depth_output=[1] * 9 + [0] * 3,
        use_linear_in_transformer=False,
        adm_in_channels=None,
    ),
    "SDXL": COMMON
    | dict(
        num_res_blocks=[2] * 3,
        channel_mult=[1, 2, 4],
        context_dim=2048,
        num_head_channels=64,
        transformer_depth=[0, 0, 2, 2, 10, 10],
        transformer_depth_middle=10,
        transformer_depth_output=[0, 0, 0, 2, 2, 2, 10, 10, 10],
        use_linear_in_transformer=True,
        num_classes="sequential",
        adm_in_channels=2816,
    ),
}


def make_model(base: str, device, dtype):
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models
    import torch

    config = getattr(comfy.supported_models, base.replace(".", ""))(CONFIGS[base] | {"dtype": dtype})
    kind = comfy.model_base.SDXL if base == "SDXL" else comfy.model_base.BaseModel
    model = kind(config, device=device)
    with torch.no_grad():
        for value in model.diffusion_model.parameters():
            value.normal_(0, 0.02)
    return comfy.model_patcher.ModelPatcher(model, device, device)


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


class PeakMemory:
    """Peak bytes within a `with` block: what CUDA allocated, or the process' resident memory over that at its start."""

    def __init__(self, device):
        self.cuda = device.type == "cuda"

    def __enter__(self):
        import psutil
        import torch

        gc.collect()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            return self
        process, self.peak, self._done = psutil.Process(), 0, threading.Event()
        start = process.memory_info().rss

        def watch():
            while not self._done.wait(0.005):
                self.peak = max(self.peak, process.memory_info().rss - start)

        self._thread = threading.Thread(target=watch)
        self._thread.start()
        return self

    def __exit__(self, *_):
        import torch

        if self.cuda:
            self.peak = torch.cuda.max_memory_allocated()
        else:
            self._done.set()
            self._thread.join()


def measure(model, latent: int, steps: int, device) -> tuple[list[float], int]:
    """Seconds of each step after the first, and the peak memory in bytes."""
    import comfy.samplers
    import torch

    context = model.model.model_config.unet_config["context_dim"]
    # On a CPU the time that the process computed: what other programs do at the same time is not our cost.
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
    for model in variants.values():  # the first rounds pay for memory that the later ones find ready
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
    sys.argv = sys.argv[:1]
    sys.path.insert(0, str(arguments.comfyui))
    import torch
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()
    args.use_pytorch_cross_attention = True
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print("| base | streams | seconds a step | ratio | peak MiB |\n|---|---|---|---|---|", flush=True)
    for base in arguments.base:
        print("\n".join(benchmark(base, arguments.latent, arguments.steps, arguments.rounds)), flush=True)


if __name__ == "__main__":
    main()
