"""A Flux of 10 M parameters on FaceWorld, for which research.ablation trains adapters.

    python -m research.small_flux base RUN --faceworld FACEWORLD --tokenizer COMFYUI/comfy/sd1_tokenizer \\
        --models COMFYUI/models
    python -m research.small_flux sheet RUN --faceworld FACEWORLD --tokenizer COMFYUI/comfy/sd1_tokenizer
    python -m research.small_flux data FACEWORLD RUN/data --splits wide --pack buffalo_s --aspect 1 \\
        --detection-size 320 --faces COMFYUI/models/insightface --tokenizer COMFYUI/comfy/sd1_tokenizer
    python -m research.ablation --small-flux RUN --data RUN/data --recipe research/small_flux/recipe.yaml \\
        --arms triplet "FaceID's design" --strengths --seeds 1 --no-dlib --cfg 3 --judge JUDGE.pt --out RUN/ablation \\
        --faceworld FACEWORLD --comfyui COMFYUI --models COMFYUI/models

Each command resumes. `sheet` writes RUN/sheet.png, pictures of held-out captions. benchmarks/demo_judge.py makes the
judge.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from facecdm.commands import dataset
from facecdm.demo import data, poses, weights
from facecdm.demo.cli import SPLITS
from facecdm.demo.emphasis import FaceWeights
from facecdm.demo.pose_cli import open_analyzer
from facecdm.demo.train import Plan, encode_all
from facecdm.training.randomness import generator
from facecdm.training.rows import Prompt
from facecdm.training.sample import even_timesteps, sample

from .base import Pictures, train
from .denoiser import Decoder, open_denoiser
from .encoders import FluxEncoders
from .model import CHANNELS, GRID


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    base, sheet = parts.add_parser("base"), parts.add_parser("sheet")
    dataset.add_arguments(parts.add_parser("data", help="the options of python -m facecdm dataset"))
    for part in (base, sheet):
        part.add_argument("run", type=Path, help="folder of checkpoints and results")
        part.add_argument("--faceworld", type=Path, required=True)
        part.add_argument("--tokenizer", type=Path, required=True, help="ComfyUI's comfy/sd1_tokenizer")
    base.add_argument("--models", type=Path, required=True, help="a models folder with insightface/models/buffalo_s")
    base.add_argument("--latents", type=Path, help="latents.npy of another training on the same pictures")
    base.add_argument("--steps", type=int, default=2800, help="the learning rate falls over the last quarter")
    base.add_argument("--batch", type=int, default=64)
    base.add_argument("--rate", type=float, default=3e-3)
    base.add_argument("--save-every", type=int, default=25, help="steps between checkpoints")
    base.add_argument("--compile", action="store_true", help="compile the model, which takes some minutes")
    return parser.parse_args(arguments)


def pictures(arguments: argparse.Namespace, demo: weights.DemoWeights) -> Pictures:
    """FaceWorld's `train` and `wide`, encoded once. Their faces count more in the loss, as in the demo's U-Net."""
    cache = arguments.run / "cache"
    captions = [label["caption"] for label in data.read_labels(arguments.faceworld, SPLITS)]
    count = len(captions)
    found = poses.load(arguments.faceworld, SPLITS, count, cache, lambda: open_analyzer(arguments.models))
    if arguments.latents is not None:
        latents = np.load(arguments.latents, mmap_mode="r")
    else:
        portraits = data.load(arguments.faceworld, SPLITS, demo.sizes.image_size, cache)
        latents = encode_all(portraits, Decoder(demo).autoencoder, cache / "latents.npy", "cpu")
    return Pictures(latents, captions, FaceWeights(found, count))


def draw_sheet(run: Path, demo: weights.DemoWeights, encoders: FluxEncoders, captions: list[str]) -> None:
    """Sample a picture of each caption into `run`/sheet.png, eight in a row."""
    from PIL import Image

    prompts, denoiser = encoders.text([*captions, ""]), open_denoiser(run, demo)
    prompt = Prompt(*(torch.cat([getattr(one, name) for one in prompts[:-1]]) for name in ("states", "pooled")))
    noise = torch.randn(len(captions), CHANNELS, GRID, GRID, generator=generator("sheet"))
    shown = sample(denoiser, noise, prompt, prompts[-1], None, even_timesteps(denoiser, 20), 3.0)
    rows = [torch.cat(list(row), 2) for row in shown.split(8)]
    Image.fromarray((torch.cat(rows, 1) * 255).round().byte().movedim(0, -1).numpy()).save(run / "sheet.png")


def main() -> None:
    arguments, demo = parse(), weights.read()
    encoders = FluxEncoders(arguments.tokenizer, demo)
    if arguments.part == "base":
        plan = Plan(arguments.steps, arguments.batch, arguments.rate, warmup=50, save_every=arguments.save_every)
        train(pictures(arguments, demo), encoders.text, plan, arguments.run, arguments.compile)
    elif arguments.part == "sheet":
        labels = data.read_labels(arguments.faceworld, ("val",))
        draw_sheet(arguments.run, demo, encoders, [label["caption"] for label in labels[::24]])
    else:
        dataset.main(arguments, encoders)


if __name__ == "__main__":
    main()
