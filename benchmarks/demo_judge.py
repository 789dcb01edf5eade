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
from torch import Tensor, nn
from torch.nn import functional as F

import shared  # noqa: F401  # isort: skip  (puts the repository on the path)
from facecdm.demo import data
from facecdm.faces.align import aligned_crop

JUDGED = ("expression", "hair_style", "hair_colour", "gender", "age")
POSE = ("yaw", "pitch", "roll")
DEGREES = 30.0  # unit of the pose outputs


@dataclass(frozen=True)
class View:
    """A crop of the aligned face, and what is judged of it.

    margin      part of a face shown more on each side
    stored      pixels of a stored crop; the network gets `side` of them, shifted at random in training
    side        pixels of the network's input
    attributes  FaceWorld's labels; `beard` is in no caption, and is trained for the features
    """

    margin: float
    stored: int
    side: int
    attributes: tuple[str, ...]


# Hair needs the whole head, and an expression the face in detail.
VIEWS = {
    "head": View(0.5, 112, 96, ("hair_style", "hair_colour", "gender")),
    "face": View(0.1, 104, 96, ("expression", "gender", "age", "beard")),
}
DECIDES = {"hair_style": "head", "hair_colour": "head"}  # the view that names an attribute; else the face
Crops = dict[str, Tensor]  # by view: uint8 [N, stored, stored, 3]


class Network(nn.Module):
    """Features [B, 256] of one view's crops, and logits of its attributes.

    The head's features are means over positions; the aligned face's keep them, since its parts are always at the same.
    """

    def __init__(self, view: View, classes: dict[str, list[str]], people: int = 0, flat: bool = False):
        super().__init__()
        self.flat = flat
        widths = (32, 64, 96) if flat else (32, 64, 128)
        self.body = nn.Sequential(
            _conv(3, widths[0], 2), _conv(widths[0], widths[1], 2), Residual(widths[1]), _conv(widths[1], widths[2], 2)
        )
        if not flat:
            self.body.extend([Residual(128), _conv(128, 256, 2), Residual(256)])
        self.embed = nn.Linear(widths[2] * (view.side // 8) ** 2 if flat else 256, 256)
        self.heads = nn.ModuleDict({name: nn.Linear(256, len(classes[name])) for name in view.attributes})
        self.pose = nn.Linear(256, len(POSE))
        self.person = nn.Linear(256, people) if people else None

    def features(self, pixels: Tensor) -> Tensor:
        maps = self.body(pixels)
        return F.relu(self.embed(maps.flatten(1) if self.flat else maps.mean((2, 3))))

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Logits of each attribute; `pose` in units of 30 degrees; `person` where people are known."""
        features = self.features(pixels)
        out = {name: head(features) for name, head in self.heads.items()} | {"pose": self.pose(features)}
        return out | ({"person": self.person(features)} if self.person is not None else {})


class Judge(nn.Module):
    """A network for each view."""

    def __init__(self, classes: dict[str, list[str]], people: int = 0):
        super().__init__()
        self.classes = classes
        self.networks = nn.ModuleDict(
            {name: Network(view, classes, people, flat=name == "face") for name, view in VIEWS.items()}
        )

    @torch.no_grad()
    def name(self, crops: Crops) -> dict[str, list[str]]:
        """The attributes of every picture."""
        logits = {}
        for view, network in self.networks.items():
            parts = [network(batch) for batch in _centred(crops[view], VIEWS[view]).split(64)]
            logits[view] = {name: torch.cat([part[name] for part in parts]) for name in VIEWS[view].attributes}
        return {
            name: [values[i] for i in logits[DECIDES.get(name, "face")][name].argmax(1).tolist()]
            for name, values in self.classes.items()
        }

    @torch.no_grad()
    def describe(self, crops: Crops) -> Tensor:
        """Features [B, 512] of every picture."""
        return torch.cat(
            [
                torch.cat([network.features(batch) for batch in _centred(crops[view], VIEWS[view]).split(64)])
                for view, network in self.networks.items()
            ],
            1,
        )


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


def _centred(crops: Tensor, view: View) -> Tensor:
    edge = (view.stored - view.side) // 2
    return to_input(crops[:, edge : edge + view.side, edge : edge + view.side])


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
        for name, view in VIEWS.items() if faces else ():
            crops[name][row] = aligned_crop(np.ascontiguousarray(picture), faces[0].keypoints, view.stored, view.margin)
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


def train(view: str, network: Network, crops: Tensor, targets: Targets, epochs: float, batch: int, kept: Path) -> None:
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
        with torch.autocast("cpu", torch.bfloat16):
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


def load(path: Path) -> Judge:
    state = torch.load(path, weights_only=True)
    judge = Judge(state["classes"])
    judge.load_state_dict(state["model"])
    return judge.eval()


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
        train(view, network, crops[view], targets, how.epochs, how.batch, how.out / f"{view}.training.pt")
    save(judge.eval(), how.out / "judge.pt")
    found = accuracy(judge, *sets["val",])
    print(json.dumps({"seconds": round(time.time() - started), "val": found}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
