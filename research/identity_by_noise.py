"""Up to which noise level does a recogniser find the person in the demo model's one-step prediction?

    python -m research.identity_by_noise --faceworld FACEWORLD --comfyui COMFYUI --models COMFYUI/models

One picture of each of FaceWorld's `val` people is noised to step t and predicted in one step without an adapter.
Printed are the cosine of InsightFace's embedding to that of the picture itself, and how often SCRFD finds a face.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from facecdm.demo import data, measure
from facecdm.demo.weights import default_path, read
from facecdm.faces.analyzer import open_pack
from facecdm.hosts.diffusers.denoiser import demo_denoiser
from facecdm.training.dataset.demo import DemoEncoders
from facecdm.training.denoiser import clean_from
from facecdm.training.randomness import generator
from facecdm.training.rows import Prompt

STEPS = (50, 100, 200, 300, 400, 500, 600, 700, 800)
PEOPLE = 48


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--faceworld", type=Path, required=True)
    add("--comfyui", type=Path, required=True, help="the ComfyUI folder, for its tokenizer")
    add("--models", type=Path, required=True, help="a models folder with insightface/models/buffalo_s")
    add("--weights", type=Path, default=default_path())
    add("--cache", type=Path, default=Path("runs/bench-cache"), help="decoded FaceWorld pictures")
    return parser.parse_args()


@torch.inference_mode()
def main() -> int:
    arguments = parse()
    weights, analyzer = read(arguments.weights), open_pack([arguments.models / "insightface"], "buffalo_s")
    denoiser = demo_denoiser(weights)
    encoders = DemoEncoders(arguments.comfyui / "comfy" / "sd1_tokenizer", weights)
    val = data.load(arguments.faceworld, ("val",), weights.sizes.image_size, arguments.cache)
    chosen = list(range(0, len(val), len(val) // PEOPLE))
    pictures = torch.from_numpy(np.array(val.pixels[chosen]))
    own = measure.embeddings(pictures, analyzer)
    latents = encoders.latents(pictures.float() / 255)
    prompts = encoders.text([val.captions[row] for row in chosen])
    prompt = Prompt(torch.cat([one.states for one in prompts]))
    noise = torch.randn(latents.shape, generator=generator("identity by noise"))
    print("| t | cosine to the original | faces found |\n|---|---|---|")
    for step in STEPS:
        t = torch.full((len(chosen),), step)
        a, s = denoiser.signal[t], denoiser.noise[t]
        noisy = a.view(-1, 1, 1, 1) * latents + s.view(-1, 1, 1, 1) * noise
        clean = clean_from(denoiser.predict(noisy, t, prompt), noisy, a, s, denoiser.prediction)
        shown = (denoiser.decode(clean).clamp(-1, 1) * 127.5 + 127.5).round().byte().movedim(1, -1)
        detected = measure.embeddings(shown, analyzer)
        cosines = [float(a @ b) if b is not None else 0.0 for a, b in zip(own, detected)]
        found = np.mean([face is not None for face in detected])
        print(f"| {step} | {np.mean(cosines):.2f} | {found:.0%} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
