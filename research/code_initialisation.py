"""Which initialisation of the face's code gives gradients that agree between people?

    python -m research.code_initialisation --data DATA --recogniser PACK/w600k_mbf.onnx

One picture each of some people of DATA (docs/demo-model.md), noised to step t; the identity loss of the demo model's
one-step prediction; its gradient with respect to what a face token adds to every layer, around each key point and
everywhere. With the tokens of another photo of the person, and a linear layer from tokens to values, this gives the
layer's gradient for any set of people. Printed is the cosine between two halves of the people, the mean of 24 splits
and three random uplifts: a cosine c at n people per half means that n (1 − c) / c people carry as much signal as noise.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from facecdm.adapter.attention import LayerStream
from facecdm.demo.weights import default_path, read
from facecdm.hosts.diffusers.denoiser import demo_denoiser
from facecdm.training.dataset.data_set import DataSet
from facecdm.training.denoiser import clean_from
from facecdm.training.initialise import embeddings_by_person, identity_directions, principal_directions
from facecdm.training.losses.arcface import ArcFace
from facecdm.training.losses.loss import centred
from facecdm.training.randomness import generator

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
    """[N, points × Σ width]: gradients of each picture's identity similarity with respect to the layers' outputs."""
    found = []
    for start in range(0, len(pictures), BATCH):
        rows = data.load(pictures[start : start + BATCH])
        count = len(rows)
        noise = torch.randn(rows.latents.shape, generator=generator("first gradients", step, start))
        t, outputs = torch.full((count,), step), []
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
                    watch=outputs.append,
                )
            ]
            for layer in denoiser.layer_map.layers
        ]
        clean = clean_from(denoiser.predict(noisy, t, rows.prompt, people), noisy, a, s, denoiser.prediction)
        embedding = centred(recogniser.embed(denoiser.decode(clean), rows.keypoints), data.mean_face)
        similarity = (embedding * centred(rows.face, data.mean_face)).sum()
        found.append(
            torch.cat(
                [near(rows.keypoints, grad.shape[1]) @ grad for grad in torch.autograd.grad(similarity, outputs)], -1
            ).flatten(1)
        )
    return torch.cat(found)


def near(keypoints: Tensor, positions: int) -> Tensor:
    """[B, 6, positions]: the proximity of each position of a layer to each key point; and 1 everywhere."""
    side = (torch.arange(positions**0.5) + 0.5) / positions**0.5
    y, x = torch.meshgrid(side, side, indexing="ij")
    far = (torch.stack([x, y], -1).flatten(0, 1)[None, None] - keypoints[:, :, None]).square().sum(-1)
    return torch.cat([(-far / (2 * NEAR**2)).exp(), torch.ones(len(keypoints), 1, positions)], 1)


def codes(faces: Tensor, people: Tensor) -> dict[str, Tensor]:
    """Initialisations, [RANK, W] each, for centred `faces` [N, W] of `people` [N]."""

    def pairs(directions: Tensor) -> Tensor:
        return torch.cat([directions, -directions])

    return {
        "principal components": principal_directions(faces, RANK),
        "principal components, in pairs": pairs(principal_directions(faces, RANK // 2)),
        "people against photos, in pairs": pairs(identity_directions(faces, people, RANK // 2)),
    }


def shared(tokens: Tensor, gradient: Tensor) -> float:
    """Cosine between two halves, mean of eight splits."""
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
    faces, people = embeddings_by_person(data)
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
