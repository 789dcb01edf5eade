"""A small classifier of head crops that reads expression, hair, gender and age from FaceWorld's portraits.

`benchmarks/demo_judge.py` trains it. It was made for synthetic portraits and does not know photos.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import BadFile, FaceCDMError, MissingModel
from ..faces.align import aligned_crop
from ..tensor_file import check_weights, load_pickle

POSE = ("yaw", "pitch", "roll")


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
            parts = [network(batch) for batch in centred(crops[view], VIEWS[view]).split(64)]
            logits[view] = {name: torch.cat([part[name] for part in parts]) for name in VIEWS[view].attributes}
        return {
            name: [values[i] for i in logits[DECIDES.get(name, "face")][name].argmax(1).tolist()]
            for name, values in self.classes.items()
        }

    def read(self, picture: np.ndarray, keypoints: np.ndarray | None) -> dict[str, str]:
        """The attributes of one face; {} without key points (see attributes.AttributeJudge)."""
        if keypoints is None:
            return {}
        crops = {view: torch.from_numpy(crop)[None] for view, crop in crop_views(picture, keypoints).items()}
        return {name: values[0] for name, values in self.name(crops).items()}

    @torch.no_grad()
    def describe(self, crops: Crops) -> Tensor:
        """Features [B, 512] of every picture."""
        return torch.cat(
            [
                torch.cat([network.features(batch) for batch in centred(crops[view], VIEWS[view]).split(64)])
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


def centred(crops: Tensor, view: View) -> Tensor:
    edge = (view.stored - view.side) // 2
    return to_input(crops[:, edge : edge + view.side, edge : edge + view.side])


def crop_views(picture: np.ndarray, keypoints: np.ndarray) -> dict[str, np.ndarray]:
    """A crop of the aligned face for each view, uint8 [stored, stored, 3]."""
    picture = np.ascontiguousarray(picture)
    return {name: aligned_crop(picture, keypoints, view.stored, view.margin) for name, view in VIEWS.items()}


def load(path: Path) -> Judge:
    """Read a file that `benchmarks/demo_judge.py` wrote. Raises MissingModel, BadFile."""
    if not path.is_file():
        raise MissingModel(f"there is no judge at {path}: benchmarks/demo_judge.py trains one")
    try:
        state = load_pickle(path)
        judge = Judge(state["classes"])
        judge.load_state_dict(state["model"])
    except Exception as error:  # torch's unpickler and zip reader raise their own types
        raise BadFile(f"{path} is no judge of benchmarks/demo_judge.py: {str(error)[:200]}") from error
    for name, value in judge.state_dict().items():
        check_weights(name, value.float(), path)
    return judge.eval()


def check_values(judge: Judge, values: dict[str, list[str]]) -> None:
    """Raise FaceCDMError for an attribute or a value that the judge does not know."""
    for name, wanted in values.items():
        known = judge.classes.get(name)
        if known is None:
            raise FaceCDMError(f"attributes: the judge does not read {name!r}, only {', '.join(judge.classes)}")
        if unknown := sorted(set(wanted) - set(known)):
            raise FaceCDMError(f"attributes: the judge knows no {name} {unknown[0]!r}, only {', '.join(known)}")
