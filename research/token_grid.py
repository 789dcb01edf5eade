"""How fine a grid do the spatial face tokens need?

    python -m research.token_grid --data DATA --recogniser PACK/w600k_mbf.onnx [--sides 6 12 16 24 32]

The demo model; DATA is a data set of FaceWorld (docs/demo-model.md). A linear map is fitted from the attention output
of a new, untrained adapter's face tokens, conditioned on face location, to the latents at each position. Held-out
people are then reconstructed from one photo each, in pictures of others. The recogniser compares them with another
photo: the cosine, and how often that photo is the nearest.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from facecdm.hosts.diffusers.denoiser import demo_denoiser
from facecdm.training.dataset.data_set import DataSet
from facecdm.training.initialise import new_adapter
from facecdm.training.losses.arcface import ArcFace, align
from facecdm.training.losses.linear import solve_ridge
from facecdm.training.losses.loss import centred
from facecdm.training.step import face_locations

JUDGED, FITTED, VIEWS, BATCH, RIDGE = 48, 600, 3, 48, 1e-3


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, required=True)
    add("--recogniser", type=Path, required=True)
    add("--sides", type=int, nargs="+", default=[6, 12, 16, 24, 32])
    add("--rank", type=int, default=80)
    add("--content", type=int, default=40)
    add("--threads", type=int, default=0)
    return parser.parse_args()


def unit(data: DataSet, pictures: list[int]) -> Tensor:
    return F.normalize(data.features(pictures, vision=False)[0].float(), dim=1)


def attention_output(adapter, faces: Tensor, rows) -> tuple[Tensor, Tensor]:
    """The face tokens' attention output at each position [B, n, C + 1], and the share of face there [B, n, 1]."""
    near, scores, inside = face_locations(rows, adapter.config)(rows.latents[0, 0].numel())
    tokens = adapter.face_projector(faces)
    outputs = torch.zeros(*scores.shape[:2], tokens.shape[1]).scatter(2, near, scores.softmax(-1))
    return torch.cat([outputs @ tokens * inside, inside], -1), inside


def fitted(adapter, data: DataSet, pictures: list[int]) -> Tensor:
    """[C + 1, c]: the linear map from attention outputs to latents, fitted with another photo of each person."""
    gram, crossed = 0.0, 0.0
    for start in range(0, len(pictures), BATCH):
        chosen = pictures[start : start + BATCH]
        rows = data.load(chosen)
        outputs, inside = attention_output(
            adapter, unit(data, [(data.references(one) or [one])[0] for one in chosen]), rows
        )
        x, y = (value[inside[..., 0] > 0.5].double() for value in (outputs, rows.latents.flatten(2).transpose(1, 2)))
        gram, crossed = gram + x.T @ x, crossed + x.T @ y
    return solve_ridge(gram, crossed, RIDGE)


@torch.inference_mode()
def main() -> None:
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    denoiser, data, recogniser = demo_denoiser(), DataSet(options.data), ArcFace(options.recogniser)
    people = [pictures for pictures in data.people.values() if len(pictures) >= VIEWS]
    judged, others = people[-JUDGED:], people[: -JUDGED : max(len(people) // FITTED, 1)]
    shown, wanted = (unit(data, [person[view] for person in judged]) for view in (0, 1))
    wanted = centred(wanted, data.mean_face)
    rows = data.load([person[2] for person in judged[1:] + judged[:1]])
    side = rows.latents.shape[-2:]
    print("| tokens | cosine to another photo | nearest of all |\n|---|---|---|", flush=True)
    for tokens in options.sides:
        adapter = new_adapter(
            denoiser, data, face_tokens=tokens**2, face_rank=options.rank, image_width=0, face_content=options.content
        )
        line = fitted(adapter, data, [picture for person in others for picture in person[:VIEWS]])
        outputs, inside = attention_output(adapter, shown, rows)
        drawn, inside = ((value.transpose(1, 2).unflatten(2, side)) for value in (outputs @ line, inside))
        pictures = denoiser.decode(torch.lerp(rows.latents, drawn, inside)).clamp(-1, 1)
        scores = centred(recogniser(align(pictures, rows.keypoints)), data.mean_face) @ wanted.T
        nearest = (scores.argmax(1) == torch.arange(len(scores))).float().mean()
        print(f"| {tokens} × {tokens} | {scores.diagonal().mean():.3f} | {nearest:.1%} |", flush=True)


if __name__ == "__main__":
    main()
