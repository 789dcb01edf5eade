"""A small classifier of head crops: does a generated picture show the expression, hair, gender and age of its prompt?

    python benchmarks/demo_judge.py --faceworld ../shared/faceworld --models COMFYUI/models --out runs/judge

trains on FaceWorld's `train` and `wide` (tens of minutes on one core) and reports the accuracy on `val`, whose people
it has not seen. `benchmarks/demo_bars.py` reads the file that it writes. No weights are part of the repository.
"""

import argparse
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import shared  # noqa: F401  # isort: skip  (puts the repository on the path)
from facecdm.demo import data
from facecdm.evaluation.judge import POSE, VIEWS, Crops, Judge, Network, View, crop_views, load, to_input

__all__ = ["JUDGED", "Judge", "crops_of", "load", "share"]  # what the other benchmarks use

JUDGED = ("expression", "hair_style", "hair_colour", "gender", "age")
DEGREES = 30.0  # unit of the pose outputs


def _shifted(crops: Tensor, view: View, rng: random.Random) -> Tensor:
    """Each crop shifted and mirrored at random."""
    out, room = [], view.stored - view.side + 1
    for picture in to_input(crops):
        top, left = rng.randrange(room), rng.randrange(room)
        cut = picture[:, top : top + view.side, left : left + view.side]
        out.append(cut.flip(-1) if rng.random() < 0.5 else cut)
    return torch.stack(out)


# ---- crops ----


def crops_of(pixels: np.ndarray, analyzer) -> tuple[Crops, list[bool]]:
    """Crops of the surest face of uint8 pictures [N, S, S, 3], and whether one was found; black where none was."""
    from facecdm.faces.search import search

    crops = {name: np.zeros((len(pixels), v.stored, v.stored, 3), np.uint8) for name, v in VIEWS.items()}
    found = []
    for row, picture in enumerate(pixels):
        bgr = np.ascontiguousarray(picture[..., ::-1])
        faces = search(analyzer, bgr, max(picture.shape[:2]), 0.4, thorough=True)
        found.append(bool(faces))
        for name, crop in crop_views(picture, faces[0].keypoints).items() if faces else ():
            crops[name][row] = crop
    return {name: torch.from_numpy(value) for name, value in crops.items()}, found


def cached_crops(portraits: data.Portraits, analyzer, folder: Path, name: str) -> Crops:
    """Those of all pictures, kept in `folder` as NAME-VIEW.npy."""
    paths = {view: folder / f"{name}-{view}.npy" for view in VIEWS}
    if not all(path.exists() for path in paths.values()):
        from tqdm import tqdm

        parts = [
            crops_of(portraits.pixels[start : start + 100], analyzer)[0]
            for start in tqdm(range(0, len(portraits), 100), desc=f"faces of {name}", mininterval=5)
        ]
        folder.mkdir(parents=True, exist_ok=True)
        for view, path in paths.items():
            np.save(path, torch.cat([part[view] for part in parts]).numpy())
    return {view: torch.from_numpy(np.load(path)) for view, path in paths.items()}


# ---- training ----


@dataclass(frozen=True)
class Targets:
    """`names` attribute -> class indices [N]; `pose` [N, 3]; `person` indices [N]."""

    names: dict[str, Tensor]
    pose: Tensor
    person: Tensor

    @classmethod
    def of(cls, labels: list[dict], classes: dict[str, list[str]]) -> "Targets":
        """Bald heads have no hair colour (-1: not trained, not judged)."""
        names = {
            name: torch.tensor([values.index(label[name]) for label in labels]) for name, values in classes.items()
        }
        bald = torch.tensor([label["hair_style"] == "bald" for label in labels])
        names["hair_colour"][bald] = -1
        people = {who: n for n, who in enumerate(sorted({label["identity"] for label in labels}))}
        return cls(
            names,
            torch.tensor([[label[angle] / DEGREES for angle in POSE] for label in labels]),
            torch.tensor([people[label["identity"]] for label in labels]),
        )


def train(
    view: str,
    network: Network,
    crops: Tensor,
    targets: Targets,
    epochs: float,
    batch: int,
    kept: Path,
    precision: str,
) -> None:
    """Train one view's network from scratch; saves every 100 steps to `kept`, and resumes."""
    from tqdm import tqdm

    network.to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=0.05)
    steps, first = int(epochs * len(crops) / batch), 0
    if kept.exists():
        state = torch.load(kept, weights_only=True)
        network.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        first = state["step"]
    for step in tqdm(range(first, steps), desc=view, initial=first, total=steps, mininterval=10):
        rng = random.Random(f"{view}/{step}")
        rows = torch.tensor(rng.sample(range(len(crops)), batch))
        optimiser.param_groups[0]["lr"] = 2e-3 * min(1, (step + 1) / 50) * max(1 - step / steps, 0.01)
        pixels = _shifted(crops[rows], VIEWS[view], rng).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            out = network(pixels)
        losses = {
            name: F.cross_entropy(out[name].float(), targets.names[name][rows], ignore_index=-1, label_smoothing=0.05)
            for name in VIEWS[view].attributes
        }
        # A mirrored head turns the other way: of yaw and roll, the size is asked for.
        pose = torch.stack([targets.pose[rows, 0].abs(), targets.pose[rows, 1], targets.pose[rows, 2].abs()], 1)
        losses["pose"] = F.mse_loss(out["pose"].float(), pose)
        losses["person"] = 0.3 * F.cross_entropy(out["person"].float(), targets.person[rows])
        sum(losses.values()).backward()
        optimiser.step()
        optimiser.zero_grad()
        if step % 50 == 0:
            print(step, {name: round(loss.item(), 3) for name, loss in losses.items()}, flush=True)
        if (step + 1) % 100 == 0 or step + 1 == steps:
            torch.save({"model": network.state_dict(), "optimiser": optimiser.state_dict(), "step": step + 1}, kept)
    network.eval()


def save(judge: Judge, path: Path) -> None:
    state = {name: value for name, value in judge.state_dict().items() if ".person." not in name}
    torch.save({"classes": judge.classes, "model": state}, path)


def accuracy(judge: Judge, crops: Crops, labels: list[dict]) -> dict[str, float]:
    """The share of `labels` that the judge names, per attribute; hair colour where there is hair."""
    named = judge.name(crops)
    return {name: share(named[name], labels, name) for name in judge.classes}


def share(named: list[str], labels: list[dict], name: str) -> float:
    asked = [row for row, label in enumerate(labels) if name != "hair_colour" or label["hair_style"] != "bald"]
    return float(np.mean([named[row] == labels[row][name] for row in asked]))


def main() -> int:
    from facecdm.faces.analyzer import open_pack

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--faceworld", type=Path, required=True)
    add("--models", type=Path, required=True, help="a models folder with insightface/models/buffalo_s")
    add("--out", type=Path, default=Path("runs/judge"), help="crops, checkpoints and judge.pt")
    add("--cache", type=Path, default=Path("runs/bench-cache"), help="decoded FaceWorld pictures")
    add("--epochs", type=float, default=8)
    add("--batch", type=int, default=128)
    add("--precision", choices=("fp32", "bf16"), default="bf16", help="fp32 is faster on processors without bf16")
    add("--threads", type=int, default=1)
    how = parser.parse_args()
    torch.set_num_threads(how.threads)
    how.out.mkdir(parents=True, exist_ok=True)
    analyzer = open_pack([how.models / "insightface"], "buffalo_s")
    sets = {}
    for splits in (("train", "wide"), ("val",)):
        portraits = data.load(how.faceworld, splits, 256, how.cache)
        sets[splits] = cached_crops(portraits, analyzer, how.out, "-".join(splits)), portraits.labels
    (crops, labels), started = sets["train", "wide"], time.time()
    attributes = sorted({name for view in VIEWS.values() for name in view.attributes})
    classes = {name: sorted({label[name] for label in labels}) for name in attributes}
    targets = Targets.of(labels, classes)
    torch.manual_seed(0)
    judge = Judge(classes, int(targets.person.max()) + 1)
    for view, network in judge.networks.items():
        train(
            view, network, crops[view], targets, how.epochs, how.batch, how.out / f"{view}.training.pt", how.precision
        )
    save(judge.eval(), how.out / "judge.pt")
    found = accuracy(judge, *sets["val",])
    print(json.dumps({"seconds": round(time.time() - started), "val": found}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
