"""What one batch of people teaches the next one, by how the face's code begins: why training/begin.py begins so.

    python benchmarks/first_gradients.py --data DATA --recogniser PACK/w600k_mbf.onnx

One picture each of some people of DATA (docs/demo-model.md), noised to step t; the identity loss of the demo model's
one-step prediction; its gradient by what a face token adds to every layer, around each key point and all over. With the
tokens of another photo of the person, and a linear layer from tokens to values, that gives the layer's gradient for any
set of people. Printed is its cosine between two halves of them, mean of 24 halvings and three random uplifts: c of n
people a half says that n (1 − c) / c people carry as much signal as noise.
"""

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

sys.path.append(str(Path(__file__).resolve().parent.parent))
from facecdm.adapter.attention import LayerStream  # noqa: E402
from facecdm.demo.weights import default_path, read  # noqa: E402
from facecdm.hosts.diffusers.denoiser import demo_denoiser  # noqa: E402
from facecdm.training.dataset.data_set import DataSet  # noqa: E402
from facecdm.training.denoiser import clean_from  # noqa: E402
from facecdm.training.initialise import identity_directions, known_faces, principal_directions  # noqa: E402
from facecdm.training.losses.arcface import ArcFace  # noqa: E402
from facecdm.training.losses.loss import centred  # noqa: E402
from facecdm.training.randomness import generator  # noqa: E402

LEVELS, BATCH, RANK, TOKENS = (600, 800, 930), 16, 128, 4
NEAR = 0.06  # of the picture, around a key point


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, required=True)
    add("--recogniser", type=Path, required=True)
    add("--weights", type=Path, default=default_path())
    add("--people", type=int, default=384)
    add("--threads", type=int, default=0)
    return parser.parse_args()


def gradients(denoiser, data: DataSet, recogniser: ArcFace, pictures: list[int], step: int) -> Tensor:
    """[N, places × Σ width]: of each picture's likeness, by what is added to the layers."""
    found = []
    for start in range(0, len(pictures), BATCH):
        rows = data.load(pictures[start : start + BATCH])
        count = len(rows)
        noise = torch.randn(rows.latents.shape, generator=generator("first gradients", step, start))
        t, heard = torch.full((count,), step), []
        a, s = denoiser.signal[t], denoiser.noise[t]
        noisy = a.view(-1, 1, 1, 1) * rows.latents + s.view(-1, 1, 1, 1) * noise
        people = [
            [
                LayerStream(
                    0,
                    count,
                    torch.zeros(count, 1, layer.width),
                    torch.zeros(count, 1, layer.width, requires_grad=True),
                    torch.ones(layer.width),
                    watch=heard.append,
                )
            ]
            for layer in denoiser.layer_map.layers
        ]
        clean = clean_from(denoiser.predict(noisy, t, rows.prompt, people), noisy, a, s, denoiser.prediction)
        seen = centred(recogniser.embed(denoiser.decode(clean), rows.keypoints), data.mean_face)
        likeness = (seen * centred(rows.face, data.mean_face)).sum()
        found.append(
            torch.cat(
                [near(rows.keypoints, grad.shape[1]) @ grad for grad in torch.autograd.grad(likeness, heard)], -1
            ).flatten(1)
        )
    return torch.cat(found)


def near(keypoints: Tensor, places: int) -> Tensor:
    """[B, 6, places]: how near each place of a layer is to each key point; and 1 everywhere."""
    side = (torch.arange(places**0.5) + 0.5) / places**0.5
    y, x = torch.meshgrid(side, side, indexing="ij")
    far = (torch.stack([x, y], -1).flatten(0, 1)[None, None] - keypoints[:, :, None]).square().sum(-1)
    return torch.cat([(-far / (2 * NEAR**2)).exp(), torch.ones(len(keypoints), 1, places)], 1)


def codes(faces: Tensor, people: Tensor) -> dict[str, Tensor]:
    """[RANK, W] each: ways to begin, for centred `faces` [N, W] of `people` [N]."""

    def pairs(directions: Tensor) -> Tensor:
        return torch.cat([directions, -directions])

    return {
        "principal components": principal_directions(faces, RANK),
        "principal components, in pairs": pairs(principal_directions(faces, RANK // 2)),
        "people against photos, in pairs": pairs(identity_directions(faces, people, RANK // 2)),
    }


def shared(tokens: Tensor, gradient: Tensor) -> float:
    """Cosine between two halves, mean of eight halvings."""
    tokens, gradient = tokens - tokens.mean(0), gradient - gradient.mean(0)
    cosines = []
    for number in range(8):
        order = torch.randperm(len(tokens), generator=generator("halves", number))
        one, two = (tokens[half].T @ gradient[half] for half in order.chunk(2))
        cosines.append(F.cosine_similarity(one.flatten(), two.flatten(), dim=0))
    return float(torch.stack(cosines).mean())


def main() -> int:
    arguments = parse()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    data, denoiser = DataSet(arguments.data), demo_denoiser(read(arguments.weights))
    recogniser = ArcFace(arguments.recogniser)
    several = [pictures for pictures in data.people.values() if len(pictures) > 1]
    order = torch.randperm(len(several), generator=generator("people"))[: arguments.people].tolist()
    faces, people = known_faces(data)
    mean, scale = faces.mean(0), faces.shape[1] ** 0.5
    shown = F.normalize(data.features([several[i][1] for i in order], vision=False)[0].float(), dim=1)
    ways = codes((faces - mean) * scale, people)
    print(
        f"{len(order)} people\n\n| code | "
        + " | ".join(f"t = {step}" for step in LEVELS)
        + " |\n|"
        + "---|" * (len(LEVELS) + 1),
        flush=True,
    )
    found = [gradients(denoiser, data, recogniser, [several[i][0] for i in order], step) for step in LEVELS]
    for name, directions in ways.items():
        code, cosines = F.gelu((shown - mean) * scale @ directions.T), []
        for seed in range(3):
            width = TOKENS * denoiser.layer_map.context
            uplift = torch.rand(RANK, width, generator=generator("uplift", seed)) * 2 - 1
            tokens = F.layer_norm((code @ uplift / RANK**0.5).unflatten(1, (TOKENS, -1)), (width // TOKENS,)).mean(1)
            cosines.append([shared(tokens, gradient) for gradient in found])
        print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in torch.tensor(cosines).mean(0).tolist()) + " |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
