"""A small classifier of head crops: does a generated picture show the expression, hair, gender and age of its prompt?

    python benchmarks/demo_judge.py --faceworld ../shared/faceworld --models COMFYUI/models --out runs/judge

trains on FaceWorld's `train` and `wide` (tens of minutes on one core) and reports the accuracy on `val`, whose people
it has not seen. `benchmarks/demo_bars.py` reads the file that it writes. No weights are part of the repository.
"""

import argparse
import json
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.append(str(Path(__file__).resolve().parent.parent))
from facecdm.demo import data  # noqa: E402
from facecdm.faces.align import aligned_crop  # noqa: E402

CROP = 112  # pixels of a stored head crop; the network sees INPUT of them, shifted at random in training
INPUT = 96
MARGIN = 0.5  # half a face more on each side, so that the hair is in the crop
JUDGED = ("expression", "hair_style", "hair_colour", "gender", "age")
AUXILIARY = ("beard",)  # not in captions; trained for the sake of the features
POSE = ("yaw", "pitch", "roll")
DEGREES = 30.0  # unit of the pose outputs


class Judge(nn.Module):
    """Residual network on crops [B, 3, 96, 96] in -1 … 1; `features` is [B, 256]."""

    def __init__(self, classes: dict[str, list[str]], people: int = 0):
        super().__init__()
        self.classes = classes
        self.body = nn.Sequential(
            _conv(3, 32, 2),
            _conv(32, 64, 2),
            Residual(64),
            _conv(64, 128, 2),
            Residual(128),
            _conv(128, 256, 2),
            Residual(256),
        )
        self.embed = nn.Linear(256, 256)
        self.heads = nn.ModuleDict({name: nn.Linear(256, len(values)) for name, values in classes.items()})
        self.pose = nn.Linear(256, len(POSE))
        self.person = nn.Linear(256, people) if people else None

    def maps(self, pixels: Tensor) -> list[Tensor]:
        """Feature maps of every stage, finest first."""
        out = []
        for layer in self.body:
            pixels = layer(pixels)
            out.append(pixels)
        return out

    def features(self, pixels: Tensor) -> Tensor:
        return F.relu(self.embed(self.body(pixels).mean((2, 3))))

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Logits of each attribute; `pose` in units of 30 degrees; `person` where people are known."""
        seen = self.features(pixels)
        out = {name: head(seen) for name, head in self.heads.items()} | {"pose": self.pose(seen)}
        return out | ({"person": self.person(seen)} if self.person is not None else {})

    @torch.no_grad()
    def name(self, crops: Tensor) -> dict[str, list[str]]:
        """Attributes of uint8 crops [B, 112, 112, 3]."""
        logits = [self(batch) for batch in _centred(crops).split(64)]
        return {
            name: [values[i] for i in torch.cat([part[name] for part in logits]).argmax(1).tolist()]
            for name, values in self.classes.items()
        }

    @torch.no_grad()
    def describe(self, crops: Tensor) -> Tensor:
        """Features [B, 256] of uint8 crops [B, 112, 112, 3]."""
        return torch.cat([self.features(batch) for batch in _centred(crops).split(64)])


class Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.first = _conv(width, width)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)))


def _conv(inside: int, outside: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU())


def to_input(crops: Tensor) -> Tensor:
    """uint8 [B, S, S, 3] -> float [B, 3, S, S] in -1 … 1."""
    return crops.permute(0, 3, 1, 2).float() / 127.5 - 1


def _centred(crops: Tensor) -> Tensor:
    edge = (CROP - INPUT) // 2
    return to_input(crops)[:, :, edge : edge + INPUT, edge : edge + INPUT]


def _shifted(crops: Tensor, rng: random.Random) -> Tensor:
    """Each crop shifted by up to 8 pixels and mirrored at random."""
    pixels, out = to_input(crops), []
    for picture in pixels:
        top, left = rng.randrange(CROP - INPUT + 1), rng.randrange(CROP - INPUT + 1)
        cut = picture[:, top : top + INPUT, left : left + INPUT]
        out.append(cut.flip(-1) if rng.random() < 0.5 else cut)
    return torch.stack(out)


# ---- crops ----


def head_crops(pixels: np.ndarray, analyzer) -> tuple[Tensor, list[bool]]:
    """uint8 crops [N, 112, 112, 3] of the surest face of uint8 pictures [N, S, S, 3], and whether one was found.

    Where none was found, the crop is black.
    """
    from facecdm.faces.search import search

    crops, found = np.zeros((len(pixels), CROP, CROP, 3), np.uint8), []
    for row, picture in enumerate(pixels):
        bgr = np.ascontiguousarray(picture[..., ::-1])
        faces = search(analyzer, bgr, max(picture.shape[:2]), 0.4, thorough=True)
        found.append(bool(faces))
        if faces:
            crops[row] = aligned_crop(np.ascontiguousarray(picture), faces[0].keypoints, CROP, MARGIN)
    return torch.from_numpy(crops), found


def cached_crops(portraits: data.Portraits, analyzer, path: Path) -> Tensor:
    if not path.exists():
        from tqdm import tqdm

        parts = [
            head_crops(portraits.pixels[start : start + 100], analyzer)[0]
            for start in tqdm(range(0, len(portraits), 100), desc=f"faces of {path.stem}", mininterval=5)
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, torch.cat(parts).numpy())
    return torch.from_numpy(np.load(path))


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


def train(crops: Tensor, labels: list[dict], epochs: float, batch: int, path: Path, seed: int = 0) -> Judge:
    """Train from scratch; saves every 200 steps, and resumes."""
    from tqdm import tqdm

    torch.manual_seed(seed)
    classes = {name: sorted({label[name] for label in labels}) for name in (*JUDGED, *AUXILIARY)}
    targets = Targets.of(labels, classes)
    judge = Judge(classes, int(targets.person.max()) + 1).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(judge.parameters(), weight_decay=0.05)
    steps, first = int(epochs * len(crops) / batch), 0
    kept = path.with_suffix(".training.pt")
    if kept.exists():
        state = torch.load(kept, weights_only=True)
        judge.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        first = state["step"]
    for step in tqdm(range(first, steps), initial=first, total=steps, mininterval=10):
        rng = random.Random(f"{seed}/{step}")
        rows = torch.tensor(rng.sample(range(len(crops)), batch))
        optimiser.param_groups[0]["lr"] = 2e-3 * min(1, (step + 1) / 50) * max(1 - step / steps, 0.01)
        pixels = _shifted(crops[rows], rng).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            out = judge(pixels)
        losses = {
            name: F.cross_entropy(out[name].float(), wanted[rows], ignore_index=-1, label_smoothing=0.05)
            for name, wanted in targets.names.items()
        }
        # A mirrored head turns the other way: |yaw| and |roll| stay, so those are what is asked for.
        losses["pose"] = F.mse_loss(
            out["pose"].float(),
            targets.pose[rows] * torch.tensor([0, 1, 0]) + targets.pose[rows].abs() * torch.tensor([1, 0, 1]),
        )
        losses["person"] = 0.3 * F.cross_entropy(out["person"].float(), targets.person[rows])
        sum(losses.values()).backward()
        optimiser.step()
        optimiser.zero_grad()
        if step % 50 == 0:
            print(step, {name: round(loss.item(), 3) for name, loss in losses.items()}, flush=True)
        if (step + 1) % 200 == 0:
            torch.save({"model": judge.state_dict(), "optimiser": optimiser.state_dict(), "step": step + 1}, kept)
    return judge.eval()


def save(judge: Judge, path: Path) -> None:
    state = {name: value for name, value in judge.state_dict().items() if not name.startswith("person.")}
    torch.save({"classes": judge.classes, "model": state}, path)


def load(path: Path) -> Judge:
    state = torch.load(path, weights_only=True)
    judge = Judge(state["classes"])
    judge.load_state_dict(state["model"])
    return judge.eval()


def accuracy(judge: Judge, crops: Tensor, labels: list[dict]) -> dict[str, float]:
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
    add("--threads", type=int, default=1)
    how = parser.parse_args()
    torch.set_num_threads(how.threads)
    how.out.mkdir(parents=True, exist_ok=True)
    analyzer = open_pack([how.models / "insightface"], "buffalo_s")
    sets = {}
    for splits in (("train", "wide"), ("val",)):
        portraits = data.load(how.faceworld, splits, 256, how.cache)
        sets[splits] = cached_crops(portraits, analyzer, how.out / f"{'-'.join(splits)}-heads.npy"), portraits.labels
    started = time.time()
    judge = train(*sets["train", "wide"], how.epochs, how.batch, how.out / "judge.pt")
    save(judge, how.out / "judge.pt")
    found = accuracy(judge, *sets["val",])
    print(json.dumps({"seconds": round(time.time() - started), "val": found}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
