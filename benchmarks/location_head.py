"""What a location head costs in a step, and how well it finds faces, alone and side by side.

    python benchmarks/location_head.py cost --comfyui COMFYUI [--threads 1]
    python benchmarks/location_head.py error --adapter ADAPTER --data DATA [--base demo] [--pictures 512]

`cost` samples with the demo model, without a person and with one whose face is found, in turns. It reports the time in
the head and in the locations made from it as a share of a plain step.

`error` predicts clean latents of the data set's pictures at random noise levels, of single people and of two side by
side, and compares the head's key points with the data set's. The unit is half a crop of the recogniser; DATA
is a folder that `python -m facecdm dataset` made, of people that the head was not trained on.
"""

import argparse
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from statistics import median

from shared import open_comfyui

from facecdm.demo.weights import read_sizes

LEVELS = range(300, 1000, 100)


def cost(arguments: argparse.Namespace) -> None:
    """Print the mean seconds of a step, and the share of it that finding the face takes."""
    open_comfyui(arguments.comfyui)
    import comfy.sample
    import torch

    from facecdm.adapter.location import FaceLocation, FaceLocations
    from facecdm.adapter.location_finder import LocationFinder
    from facecdm.adapter.person import Person
    from facecdm.hosts.comfy.demo import adapter as demo_adapter
    from facecdm.hosts.comfy.demo.model import load
    from facecdm.hosts.comfy.sampling.apply import apply_person
    from facecdm.training.location import with_location_head

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    clock = Clock(torch.cuda.is_available())
    parts = [(LocationFinder, "__call__"), (FaceLocation, "__call__"), (FaceLocation, "everywhere")]
    for owner, name in [*parts, (FaceLocations, "__call__"), (FaceLocations, "everywhere")]:
        setattr(owner, name, clock.watched(getattr(owner, name)))
    with torch.inference_mode():
        demo = load()
        model, adapter = demo_adapter.load(demo.model)
        if adapter.location_head is None:
            adapter = with_location_head(adapter, _random_head(demo.model))
        face = torch.nn.functional.normalize(torch.randn(1, 512), dim=1)
        found = apply_person(model, Person(adapter, face))
        prompt = [[demo.clip.encode_from_tokens(demo.clip.tokenize("a young man")), {}]]
        latents = demo.vae.encode(torch.zeros(arguments.pictures, *[arguments.size] * 2, 3))

        def sample(model) -> float:
            noise, started = torch.randn_like(latents), clock.now()
            names = arguments.steps, 4.0, "euler", "karras"
            comfy.sample.sample(model, noise, *names, prompt, prompt, latents, disable_pbar=True)
            return (clock.now() - started) / arguments.steps

        sample(demo.model), sample(found)  # warm-up
        clock.inside = 0.0
        seconds = [(sample(demo.model), sample(found)) for _ in range(arguments.rounds)]
    plain = median(pair[0] for pair in seconds)
    finding = clock.inside / arguments.rounds / arguments.steps
    print("| plain, s a step | with a person | finding the face | share of a plain step |\n|---|---|---|---|")
    print(f"| {plain:.4f} | {median(pair[1] for pair in seconds):.4f} | {finding:.5f} | {finding / plain:.2%} |")


class Clock:
    """Seconds: of the process on a CPU, which other load changes little; with a GPU of the wall, after its work."""

    def __init__(self, gpu: bool):
        self._gpu, self.inside, self._depth = gpu, 0.0, 0

    def now(self) -> float:
        import torch

        if self._gpu:
            torch.cuda.synchronize()
        return time.perf_counter() if self._gpu else time.process_time()

    def watched(self, function: Callable) -> Callable:
        """The function; its seconds are added to `inside`."""

        @wraps(function)
        def call(*arguments, **named):
            started, self._depth = self.now(), self._depth + 1
            try:
                return function(*arguments, **named)
            finally:
                self._depth -= 1
                self.inside += 0.0 if self._depth else self.now() - started

        return call


def _random_head(model):
    from facecdm.adapter.location_head import LocationHead

    return LocationHead(model.model.model_config.unet_config["in_channels"])


def error(arguments: argparse.Namespace) -> None:
    """Print the errors by noise level."""
    import torch

    from facecdm.adapter.location_head import face_side, trust
    from facecdm.adapter.native import load_adapter
    from facecdm.hosts.diffusers.denoiser import open_base
    from facecdm.training.dataset.data_set import DataSet
    from facecdm.training.location import LocationPlan, location_batch

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    head = load_adapter(arguments.adapter).location_head
    denoiser, data = open_base(arguments.base, "cpu"), DataSet(arguments.data)
    plan, batch, made = LocationPlan(predicted=1.0), 32, []
    bucket = max(data.buckets, key=len)
    for step in range(arguments.pictures // batch):
        chosen = [bucket[(step * batch + row) % len(bucket)] for row in range(batch)]
        made.append(location_batch(denoiser, data, data.load(chosen), plan, step))
    clean, sigma, points = (torch.cat(part) for part in zip(*made))
    sigmas = denoiser.noise / denoiser.signal.clamp(min=1e-4)
    level = (sigma[:, None] - sigmas[None]).abs().argmin(1)
    order = level.argsort()  # neighbours have nearly the same noise
    left, right = order[0::2], order[1::2]
    both, half = torch.cat([clean[left], clean[right]], -1), torch.zeros(1, 1, *clean.shape[-2:])
    region = torch.cat([torch.ones_like(half), half], -1)
    cases = {
        "one person": (head(clean, sigma), points, level),
        "two, no mask": (head(both, sigma[left]), points[left], level[left]),
        "two, latents masked": (head(both * region, sigma[left]), points[left], level[left]),
        "two, heat maps masked": (head(both, sigma[left], region), points[left], level[left]),
    }
    print(f"| t | {' | '.join(f'{low} – {low + 99}' for low in LEVELS)} |\n|{'---|' * (len(LEVELS) + 1)}")
    for name, ((found, log_std), wanted, at) in cases.items():
        if name.startswith("two"):
            found = torch.stack([found[..., 0] * 2, found[..., 1]], -1)
        missed = (found - wanted).square().sum(-1).mean(-1) / (face_side(wanted) / 2).square()
        weight = trust(found, log_std)
        inside = [(at >= low) & (at < low + 100) for low in LEVELS]
        print(f"| {name}: error | {' | '.join(f'{missed[rows].mean().sqrt():.3f}' for rows in inside)} |")
        print(f"| {name}: weight | {' | '.join(f'{weight[rows].mean():.2f}' for rows in inside)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    timing = commands.add_parser("cost")
    timing.add_argument("--comfyui", type=Path, required=True)
    timing.add_argument("--size", type=int, default=read_sizes().image_size, help="pixels of the picture's side")
    timing.add_argument("--pictures", type=int, default=1, help="pictures in a batch")
    timing.add_argument("--steps", type=int, default=20)
    timing.add_argument("--rounds", type=int, default=4)
    timing.set_defaults(run=cost)
    finding = commands.add_parser("error")
    finding.add_argument("--adapter", type=Path, required=True)
    finding.add_argument("--data", type=Path, required=True)
    finding.add_argument("--base", default="demo")
    finding.add_argument("--pictures", type=int, default=512)
    finding.set_defaults(run=error)
    for command in (timing, finding):
        command.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves the choice to torch")
    arguments = parser.parse_args()
    import torch

    with torch.no_grad():
        arguments.run(arguments)


if __name__ == "__main__":
    main()
