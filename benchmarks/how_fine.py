"""How many places of a face must its tokens be? The faces that a straight line can draw from them, by their number.

    python benchmarks/how_fine.py --data DATA --recogniser PACK/w600k_mbf.onnx [--sides 6 12 16 24 32]

The demo model, DATA a data set of FaceWorld (docs/demo-model.md). What the face tokens of a new adapter say in each
place of a picture, being told where the face is, is fitted by one linear map to the latents there; before any training.
Then people who were not fitted are drawn so into pictures of others, from one photo of each, and the recogniser
compares them with another photo: its cosine, and how often that is the nearest one of all.
"""

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

sys.path.append(str(Path(__file__).resolve().parent.parent))
from facecdm.hosts.diffusers.denoiser import demo_denoiser  # noqa: E402
from facecdm.training.dataset.data_set import DataSet  # noqa: E402
from facecdm.training.initialise import new_adapter  # noqa: E402
from facecdm.training.losses.arcface import ArcFace, align  # noqa: E402
from facecdm.training.losses.linear import straight  # noqa: E402
from facecdm.training.losses.loss import centred  # noqa: E402
from facecdm.training.step import face_locations  # noqa: E402

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


def said(adapter, faces: Tensor, rows) -> tuple[Tensor, Tensor]:
    """What each place of the rows hears of these faces [B, n, C + 1], and how much of it is face [B, n, 1]."""
    near, scores, inside = face_locations(rows, adapter.config)(rows.latents[0, 0].numel())
    tokens = adapter.face_projector(faces)
    heard = torch.zeros(*scores.shape[:2], tokens.shape[1]).scatter(2, near, scores.softmax(-1))
    return torch.cat([heard @ tokens * inside, inside], -1), inside


def fitted(adapter, data: DataSet, pictures: list[int]) -> Tensor:
    """[C + 1, c]: the line from what is said in a place of the face to its latent, of another photo of the person."""
    gram, crossed = 0.0, 0.0
    for start in range(0, len(pictures), BATCH):
        chosen = pictures[start : start + BATCH]
        rows = data.load(chosen)
        heard, inside = said(adapter, unit(data, [(data.references(one) or [one])[0] for one in chosen]), rows)
        x, y = (value[inside[..., 0] > 0.5].double() for value in (heard, rows.latents.flatten(2).transpose(1, 2)))
        gram, crossed = gram + x.T @ x, crossed + x.T @ y
    return straight(gram, crossed, RIDGE)


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
        heard, inside = said(adapter, shown, rows)
        drawn, inside = ((value.transpose(1, 2).unflatten(2, side)) for value in (heard @ line, inside))
        pictures = denoiser.decode(torch.lerp(rows.latents, drawn, inside)).clamp(-1, 1)
        scores = centred(recogniser(align(pictures, rows.keypoints)), data.mean_face) @ wanted.T
        nearest = (scores.argmax(1) == torch.arange(len(scores))).float().mean()
        print(f"| {tokens} × {tokens} | {scores.diagonal().mean():.3f} | {nearest:.1%} |", flush=True)


if __name__ == "__main__":
    main()
