"""Who is drawn and with which words: FaceWorld's `val` people, whom no training has seen."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from facecdm.demo import data, measure
from facecdm.errors import FaceCDMError

from .training import digest

SIZE = 256  # of the reference photos, as FaceWorld has them


@dataclass(frozen=True)
class Asked:
    """A picture that is wanted: of person number `person`, by `words`; `yaw` is that of the words' own picture."""

    person: int
    words: str
    yaw: float


@dataclass(frozen=True, eq=False)
class Cast:
    """The people, what the adapters see of their references, and all that is asked, encoded.

    faces [P, W] are unit embeddings, vision [P, N, V] or None; prompts [A, T, C] and empty [1, T, C]; hints
    [A, 3, H, W] are the poses of the words' own pictures, and places [A, 5, 2] their faces' points; or None.
    """

    names: list[str]
    references: list[Path]
    held_out: list[Path]
    faces: Tensor
    vision: Tensor | None
    asked: list[Asked]
    prompts: Tensor
    empty: Tensor
    hints: Tensor | None = None
    places: Tensor | None = None

    @property
    def key(self) -> str:
        return digest([[vars(one) for one in self.asked], self.names, [round(float(self.faces.sum()), 4)]])


def choose(labels: list[dict], people: int, prompts: int, left_out: list[str]) -> tuple[list[str], list[tuple]]:
    """(names, asked): of each person `prompts` rows of other people's labels, with their number.

    The n-th words are those of view 2 + n of the n-th next person of the same gender, so that words and person do not
    contradict each other there; hair, age, shirt and background are the other one's.
    """
    views: dict[str, dict[int, int]] = {}
    for row, label in enumerate(labels):
        views.setdefault(label["identity"], {})[label["view"]] = row
    names = [name for name in views if name.split("-")[-1] not in left_out][:people]
    everyone = list(views)
    gender = {name: labels[next(iter(views[name].values()))]["gender"] for name in everyone}
    asked = []
    for n in range(prompts):
        for number, name in enumerate(names):
            here = everyone.index(name)
            next_ones = everyone[here + 1 :] + everyone[:here]
            alike = [other for other in next_ones if gender[other] == gender[name]] or next_ones or [name]
            rows = views[alike[n % len(alike)]]
            asked.append((number, sorted(rows.values())[(2 + n) % len(rows)]))
    return names, asked


def cast(
    faceworld: Path,
    cache: Path,
    folder: Path,
    analyzer,
    encoders,
    people: int,
    prompts: int,
    left_out: list[str],
    landmarks=None,
) -> Cast:
    """Of each person the first view with a face is the reference and the second one is held out; written to `folder`.

    With an analyzer of `landmarks` the poses are drawn, too. Raises FaceCDMError where nobody is left.
    """
    from PIL import Image

    val = data.load(faceworld, ("val",), SIZE, cache)
    names, asked = choose(val.labels, people, prompts, left_out)
    if not names:
        raise FaceCDMError("nobody is left to draw: --people is 0, or all are left out")
    paths: dict[str, list[Path]] = {"reference": [], "held out": []}
    faces, pictures = [], []
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        rows = [row for row, label in enumerate(val.labels) if label["identity"] == name]
        found = []
        for row in rows:
            if len(found) < 2 and (face := measure.embeddings(_pixels(val, [row]), analyzer)[0]) is not None:
                found.append((row, face))
        if len(found) < 2:
            raise FaceCDMError(f"{name} has fewer than two views in which a face is found")
        for kind, (row, _) in zip(paths, found):
            paths[kind].append(folder / f"{name} {kind}.png")
            Image.fromarray(val.pixels[row]).save(paths[kind][-1])
        faces.append(found[0][1])
        pictures.append(np.array(val.pixels[found[0][0]]))
    wanted = [Asked(person, val.captions[row], val.labels[row]["yaw"]) for person, row in asked]
    states = {words: encoders.text([words])[0].states for words in {one.words for one in wanted} | {""}}
    posed = _poses(val, [row for _, row in asked], landmarks, encoders.resolution) if landmarks is not None else ()
    return Cast(
        names,
        paths["reference"],
        paths["held out"],
        torch.stack(faces),
        encoders.vision(pictures).cpu(),
        wanted,
        torch.cat([states[one.words] for one in wanted]).cpu(),
        states[""].cpu(),
        *posed,
    )


def others(train: data.Portraits, folder: Path, count: int = 100) -> list[Path]:
    """Pictures of other people, written to `folder`, whose mean embedding is taken off."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for row in np.linspace(0, len(train) - 1, count).astype(int):
        paths.append(folder / f"{row:05d}.png")
        if not paths[-1].exists():
            Image.fromarray(np.array(train.pixels[row])).save(paths[-1])
    return paths


class Colours:
    """Of the colours that words name (background, plain shirt) the share that a picture shows, 0…1."""

    def __init__(self, train: data.Portraits, labels: list[dict]):
        self._background, self._shirt = measure.background_namer(train), measure.shirt_namer(train)
        self._labels = {label["caption"]: label for label in labels}

    def __call__(self, picture: np.ndarray, words: str) -> float:
        label, pixels = self._labels[words], torch.from_numpy(np.array(picture))[None]
        right = [self._background(measure.background_features(pixels))[0] == label["background_colour"]]
        if measure.plain_shirts([label]):
            right.append(self._shirt(measure.shirt_features(pixels))[0] == label["shirt_colour"])
        return sum(right) / len(right)


def _pixels(val: data.Portraits, rows: list[int]) -> Tensor:
    return torch.from_numpy(np.array(val.pixels[rows]))


def _poses(val: data.Portraits, rows: list[int], landmarks, size: int) -> tuple[Tensor, Tensor]:
    """Poses as pictures of the base's own size, made smaller as ComfyUI does it; and the places of their faces."""
    from facecdm.pose.extract import Drawing, FaceDetector, extract
    from facecdm.pose.location import face_keypoints

    poses = extract(FaceDetector(landmarks), _pixels(val, rows).float() / 255, "largest").poses
    hints = torch.from_numpy(np.stack([Drawing()(pose) for pose in poses])).movedim(-1, 1).float() / 255
    return torch.nn.functional.interpolate(hints, (size, size), mode="nearest-exact"), face_keypoints(poses)[0]
