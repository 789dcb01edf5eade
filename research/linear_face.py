"""How much of a face can a linear map reconstruct from its embedding?

    python -m research.linear_face --data DATA --recogniser PACK/w600k_mbf.onnx

Ridge regression from the embeddings of some people of DATA (docs/demo-model.md) to the mean aligned face of each.
Held-out people are reconstructed from one photo each; the recogniser compares them with another photo: the cosine, and
how often that photo is the nearest. The result: the embeddings do not limit training.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from facecdm.demo.weights import default_path, read
from facecdm.hosts.diffusers.denoiser import demo_denoiser
from facecdm.training.dataset.data_set import DataSet
from facecdm.training.losses.arcface import SIZE, ArcFace, align
from facecdm.training.losses.loss import centred

SIDE, JUDGED, RIDGES, BATCH = 56, 48, (0.01, 0.03, 0.1, 0.3, 1.0), 64


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, required=True)
    add("--recogniser", type=Path, required=True)
    add("--weights", type=Path, default=default_path())
    add("--people", type=int, default=1000, help="number of people who are fitted; 48 others are compared")
    add("--threads", type=int, default=0)
    return parser.parse_args()


def upright(denoiser, data: DataSet, pictures: list[int]) -> Tensor:
    """[N, 3 · SIDE²] in −1…1: the aligned faces, reduced."""
    found = []
    for start in range(0, len(pictures), BATCH):
        rows = data.load(pictures[start : start + BATCH])
        found.append(F.avg_pool2d(align(denoiser.decode(rows.latents), rows.keypoints), SIZE // SIDE).flatten(1))
    return torch.cat(found)


def mean_by_person(values: Tensor, whose: Tensor) -> Tensor:
    total = values.new_zeros(int(whose.max()) + 1, values.shape[1]).index_add_(0, whose, values)
    return total / whose.bincount()[:, None]


def embed(recogniser: ArcFace, faces: Tensor, mean: Tensor) -> Tensor:
    """Centred unit embeddings [N, D] of upright faces [N, 3 · SIDE²]."""
    crops = F.interpolate(faces.view(-1, 3, SIDE, SIDE).clamp(-1, 1), (SIZE, SIZE), mode="bilinear")
    return centred(torch.cat([recogniser(part) for part in crops.split(BATCH)]), mean)


def line(name: str, faces: Tensor, others: Tensor) -> str:
    scores = faces @ others.T
    nearest = (scores.argmax(1) == torch.arange(len(scores))).float().mean()
    return f"| {name} | {scores.diagonal().mean():.3f} | {nearest:.1%} |"


@torch.inference_mode()
def main() -> int:
    arguments = parse()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    data, denoiser = DataSet(arguments.data), demo_denoiser(read(arguments.weights))
    recogniser = ArcFace(arguments.recogniser)
    several = [pictures for pictures in data.people.values() if len(pictures) > 1]
    judged, fitted = several[-JUDGED:], several[:-JUDGED][: arguments.people]
    pictures = [picture for person in fitted for picture in person]
    whose = torch.tensor([number for number, person in enumerate(fitted) for _ in person])

    def unit(chosen: list[int]) -> Tensor:
        return F.normalize(data.features(chosen, vision=False)[0].float(), dim=1)

    known, faces = unit(pictures), mean_by_person(upright(denoiser, data, pictures), whose)
    centre, middle = known.mean(0), faces.mean(0)
    shown, other_photos = (unit([person[view] for person in judged]) for view in (0, 1))
    others = centred(other_photos, centre)
    print(
        f"{len(fitted)} people fitted, {len(judged)} judged\n\n| face | cosine to another photo | nearest of all |\n"
        "|---|---|---|"
    )
    print(line("the photo itself", centred(shown, centre), others))
    print(
        line("the photo, upright", embed(recogniser, upright(denoiser, data, [p[0] for p in judged]), centre), others)
    )
    x, y = known - centre, (faces - middle)[whose]
    covariance, cross = x.T @ x, x.T @ y
    for ridge in RIDGES:
        map_ = torch.linalg.solve(covariance + ridge * covariance.diagonal().mean() * torch.eye(len(covariance)), cross)
        print(
            line(
                f"linear map, ridge {ridge:g}",
                embed(recogniser, middle + (shown - centre) @ map_, centre),
                others,
            ),
            flush=True,
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
