"""Do a base model's queries know where in the face they stand? The places of a new adapter hang on it.

    python benchmarks/where_faces_are.py --data DATA

DATA is a data set with poses that `python -m facecdm dataset` made of FaceWorld (docs/demo-model.md). For the demo
model without an adapter: the place on the upright face is fitted to a layer's queries, by least squares and by a small
network over half of the pictures, and asked of the others; the table has the error that is left, in half crops of the
recogniser (a blind guess has the first number).
"""

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from facecdm.bases.grid import layer_grid  # noqa: E402
from facecdm.demo.paths import POSE_CONTROLNET  # noqa: E402
from facecdm.faces.location import REACH, aligned_coordinates  # noqa: E402
from facecdm.hosts.diffusers.denoiser import demo_denoiser  # noqa: E402
from facecdm.training.dataset.data_set import DataSet  # noqa: E402
from facecdm.training.randomness import generator  # noqa: E402

BATCH, LAYERS = 32, ("input", "output")


@torch.no_grad()
def queries(denoiser, data: DataSet, chosen: list[int], step: int, pose: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Of each layer: queries [N, C] of the places that lie in a face, and where they stand [N, 2]."""
    draw, found, where = generator("where", step), {}, {}
    for start in range(0, len(chosen), BATCH):
        rows = data.load(chosen[start : start + BATCH])
        t = torch.full((len(rows),), step)
        a, s = denoiser.signal[step], denoiser.noise[step]
        noisy = a * rows.latents + s * torch.randn(rows.latents.shape, generator=draw)

        def watch(index: int, q: Tensor, _: Tensor, rows=rows) -> None:
            size = tuple(rows.latents.shape[-2:])
            stands = aligned_coordinates(rows.keypoints, size, layer_grid(q.shape[1], *size))[..., :2]
            inside = stands.abs().amax(-1) < REACH
            found.setdefault(index, []).append(q[inside].float())
            where.setdefault(index, []).append(stands[inside])

        denoiser.predict(noisy, t, rows.prompt, None, rows.control if pose else None, watch)
    order = range(len(denoiser.layer_map.layers))
    return [torch.cat(found[index]) for index in order], [torch.cat(where[index]) for index in order]


def linear(x: Tensor, y: Tensor, asked: Tensor) -> Tensor:
    x, asked = (torch.cat([part, torch.ones(len(part), 1)], 1) for part in (x, asked))
    gram = x.T @ x
    gram.diagonal().add_(1e-3 * gram.diagonal().mean())
    return asked @ torch.linalg.solve(gram, x.T @ y)


def network(x: Tensor, y: Tensor, asked: Tensor) -> Tensor:
    torch.manual_seed(0)
    net, scale = nn.Sequential(nn.Linear(x.shape[1], 256), nn.GELU(), nn.Linear(256, 2)), x.std()
    optimiser = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(400):
        some = torch.randint(len(x), (1024,))
        optimiser.zero_grad()
        nn.functional.mse_loss(net(x[some] / scale), y[some]).backward()
        optimiser.step()
    with torch.no_grad():
        return net(asked / scale)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=320)
    parser.add_argument("--steps", type=int, nargs="+", default=[500, 700, 900], help="noise steps of 1,000")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    data, denoiser = DataSet(arguments.data), demo_denoiser(pose=POSE_CONTROLNET)
    bucket = data.buckets[0]
    chosen = [bucket[i * len(bucket) // arguments.pictures] for i in range(arguments.pictures)]
    print("| layer | noise | pose | a blind guess | by least squares | by a network |\n|---|---|---|---|---|---|")
    for step in arguments.steps:
        for pose in (False, True) if data.has_pose else (False,):
            seen = [queries(denoiser, data, half, step, pose) for half in (chosen[::2], chosen[1::2])]
            for index, layer in enumerate(denoiser.layer_map.layers):
                if layer.part in LAYERS:
                    (x, asked), (y, truth) = ([half[part][index] for half in seen] for part in (0, 1))
                    blind = truth - y.mean(0)
                    errors = [
                        float(e.square().sum(1).mean().sqrt())
                        for e in (blind, linear(x, y, asked) - truth, network(x, y, asked) - truth)
                    ]
                    print(
                        f"| {index} ({layer.part}) | {step} | {'yes' if pose else 'no'} | "
                        + " | ".join(f"{error:.2f}" for error in errors)
                        + " |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
