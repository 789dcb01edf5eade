"""Can a position in the face be read from a base model's queries? The keys of spatial tokens depend on it.

    python -m research.query_positions --data DATA

DATA is a data set with poses that `python -m facecdm dataset` made from FaceWorld (docs/demo-model.md). For the demo
model without an adapter, the position on the aligned face is predicted from a layer's queries, by least squares and by
a small network, fitted on half of the pictures and tested on the others. The table has the remaining error, in half
crops of the recogniser; the first number is that of the mean position.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from facecdm.bases.grid import layer_grid
from facecdm.demo.paths import POSE_CONTROLNET
from facecdm.faces.location import REACH, aligned_coordinates
from facecdm.hosts.diffusers.denoiser import demo_denoiser
from facecdm.training.dataset.data_set import DataSet
from facecdm.training.randomness import generator

BATCH, LAYERS = 32, ("input", "output")


@torch.no_grad()
def queries(denoiser, data: DataSet, chosen: list[int], step: int, pose: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Per layer: queries [N, C] of the positions in a face, and their position on the aligned face [N, 2]."""
    rng, found, found_coordinates = generator("where", step), {}, {}
    for start in range(0, len(chosen), BATCH):
        rows = data.load(chosen[start : start + BATCH])
        t = torch.full((len(rows),), step)
        a, s = denoiser.signal[step], denoiser.noise[step]
        noisy = a * rows.latents + s * torch.randn(rows.latents.shape, generator=rng)

        def watch(index: int, q: Tensor, _: Tensor, rows=rows) -> None:
            size = tuple(rows.latents.shape[-2:])
            coordinates = aligned_coordinates(rows.keypoints, size, layer_grid(q.shape[1], *size))[..., :2]
            inside = coordinates.abs().amax(-1) < REACH
            found.setdefault(index, []).append(q[inside].float())
            found_coordinates.setdefault(index, []).append(coordinates[inside])

        denoiser.predict(noisy, t, rows.prompt, None, rows.control if pose else None, watch)
    order = range(len(denoiser.layer_map.layers))
    return [torch.cat(found[index]) for index in order], [torch.cat(found_coordinates[index]) for index in order]


def linear(x: Tensor, y: Tensor, new_x: Tensor) -> Tensor:
    x, new_x = (torch.cat([part, torch.ones(len(part), 1)], 1) for part in (x, new_x))
    gram = x.T @ x
    gram.diagonal().add_(1e-3 * gram.diagonal().mean())
    return new_x @ torch.linalg.solve(gram, x.T @ y)


def network(x: Tensor, y: Tensor, new_x: Tensor) -> Tensor:
    torch.manual_seed(0)
    net, scale = nn.Sequential(nn.Linear(x.shape[1], 256), nn.GELU(), nn.Linear(256, 2)), x.std()
    optimiser = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(400):
        some = torch.randint(len(x), (1024,))
        optimiser.zero_grad()
        nn.functional.mse_loss(net(x[some] / scale), y[some]).backward()
        optimiser.step()
    with torch.no_grad():
        return net(new_x / scale)


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
    print("| layer | noise | pose | mean position | by least squares | by a network |\n|---|---|---|---|---|---|")
    for step in arguments.steps:
        for pose in (False, True) if data.has_pose else (False,):
            samples = [queries(denoiser, data, half, step, pose) for half in (chosen[::2], chosen[1::2])]
            for index, layer in enumerate(denoiser.layer_map.layers):
                if layer.part in LAYERS:
                    (x, new_x), (y, truth) = ([half[part][index] for half in samples] for part in (0, 1))
                    mean_error = truth - y.mean(0)
                    errors = [
                        float(e.square().sum(1).mean().sqrt())
                        for e in (mean_error, linear(x, y, new_x) - truth, network(x, y, new_x) - truth)
                    ]
                    print(
                        f"| {index} ({layer.part}) | {step} | {'yes' if pose else 'no'} | "
                        + " | ".join(f"{error:.2f}" for error in errors)
                        + " |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
