"""The people and prompts: FaceWorld's `val` people, held out from all trainings."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from facecdm.demo import data, measure
from facecdm.errors import FaceCDMError
from facecdm.training.rows import Prompt

from .training import digest

SIZE = 256  # of the reference photos, as FaceWorld has them


@dataclass(frozen=True)
class Request:
    """An image to sample: of person number `person`, with `prompt`; `yaw` is that of the prompt's own picture."""

    person: int
    prompt: str
    yaw: float


@dataclass(frozen=True, eq=False)
class EvaluationSet:
    """The people and requests of P people and A images, with their encodings.

    names       of the people
    references  pictures whose faces are the adapters' references
    held_out    other pictures of the same people
    faces       [P, W] unit embeddings of the references
    vision      [P, N, V] image features of the references, or None
    requests    the images to sample
    prompts     the encoded prompts of the A images
    empty       the encoded empty prompt
    hints       [A, 3, H, W] pose drawings of the pictures that the prompts describe, or None
    keypoints   [A, 5, 2] face key points of the same pictures, or None
    """

    names: list[str]
    references: list[Path]
    held_out: list[Path]
    faces: Tensor
    vision: Tensor | None
    requests: list[Request]
    prompts: Prompt
    empty: Prompt
    hints: Tensor | None = None
    keypoints: Tensor | None = None

    @property
    def key(self) -> str:
        return digest([[vars(one) for one in self.requests], self.names, [round(float(self.faces.sum()), 4)]])


def choose(labels: list[dict], people: int, prompts: int, left_out: list[str]) -> tuple[list[str], list[tuple]]:
    """Choose (names, requests); a request is (number of the person, row of the label whose caption is the prompt).

    A person's n-th prompt is the caption of view 2 + n of the n-th next person of the same gender. Prompt and person
    thus agree in gender; hair, age, shirt and background in the prompt are the other person's.
    """
    views: dict[str, dict[int, int]] = {}
    for row, label in enumerate(labels):
        views.setdefault(label["identity"], {})[label["view"]] = row
    names = [name for name in views if name.split("-")[-1] not in left_out][:people]
    everyone = list(views)
    gender = {name: labels[next(iter(views[name].values()))]["gender"] for name in everyone}
    requests = []
    for n in range(prompts):
        for number, name in enumerate(names):
            here = everyone.index(name)
            next_ones = everyone[here + 1 :] + everyone[:here]
            alike = [other for other in next_ones if gender[other] == gender[name]] or next_ones or [name]
            rows = views[alike[n % len(alike)]]
            requests.append((number, sorted(rows.values())[(2 + n) % len(rows)]))
    return names, requests


def choose_evaluation_set(
    faceworld: Path,
    cache: Path,
    folder: Path,
    analyzer,
    encoders,
    people: int,
    prompts: int,
    left_out: list[str],
    landmarks=None,
) -> EvaluationSet:
    """Choose the people and encode everything; their pictures are written to `folder`.

    The first view of a person in which a face is found is the reference, the second one is held out. With an analyzer
    of `landmarks`, poses are drawn as well. Raises FaceCDMError if no people are left.
    """
    from PIL import Image

    val = data.load(faceworld, ("val",), SIZE, cache)
    names, requests = choose(val.labels, people, prompts, left_out)
    if not names:
        raise FaceCDMError("no people are left: --people is 0, or --leave-out names everyone")
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
    wanted = [Request(person, val.captions[row], val.labels[row]["yaw"]) for person, row in requests]
    encoded = {prompt: encoders.text([prompt])[0] for prompt in {one.prompt for one in wanted} | {""}}
    posed = _poses(val, [row for _, row in requests], landmarks, encoders.resolution) if landmarks is not None else ()
    return EvaluationSet(
        names,
        paths["reference"],
        paths["held out"],
        torch.stack(faces),
        encoders.vision(pictures).cpu(),
        wanted,
        joined([encoded[one.prompt] for one in wanted]),
        joined([encoded[""]]),
        *posed,
    )


def joined(prompts: list[Prompt]) -> Prompt:
    """One Prompt, on the CPU, of prompts of one length."""
    pooled = None if prompts[0].pooled is None else torch.cat([one.pooled for one in prompts]).cpu()
    return Prompt(torch.cat([one.states for one in prompts]).cpu(), pooled)


def others(train: data.Portraits, folder: Path, count: int = 100) -> list[Path]:
    """Pictures of other people, written to `folder`; their mean embedding is subtracted."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for row in np.linspace(0, len(train) - 1, count).astype(int):
        paths.append(folder / f"{row:05d}.png")
        if not paths[-1].exists():
            Image.fromarray(np.array(train.pixels[row])).save(paths[-1])
    return paths


class Colours:
    """The share, 0…1, of the colours in a prompt (background, plain shirt) that a picture shows."""

    def __init__(self, train: data.Portraits, labels: list[dict]):
        self._background, self._shirt = measure.background_namer(train), measure.shirt_namer(train)
        self._labels = {label["caption"]: label for label in labels}

    def __call__(self, picture: np.ndarray, prompt: str) -> float:
        label, pixels = self._labels[prompt], torch.from_numpy(np.array(picture))[None]
        right = [self._background(measure.background_features(pixels))[0] == label["background_colour"]]
        if measure.plain_shirts([label]):
            right.append(self._shirt(measure.shirt_features(pixels))[0] == label["shirt_colour"])
        return sum(right) / len(right)


def _pixels(val: data.Portraits, rows: list[int]) -> Tensor:
    return torch.from_numpy(np.array(val.pixels[rows]))


def _poses(val: data.Portraits, rows: list[int], landmarks, size: int) -> tuple[Tensor, Tensor]:
    """Pose drawings at the base model's resolution, resized as ComfyUI does it, and the face key points."""
    from facecdm.pose.extract import Drawing, FaceDetector, extract
    from facecdm.pose.location import face_keypoints

    poses = extract(FaceDetector(landmarks), _pixels(val, rows).float() / 255, "largest").poses
    hints = torch.from_numpy(np.stack([Drawing()(pose) for pose in poses])).movedim(-1, 1).float() / 255
    return torch.nn.functional.interpolate(hints, (size, size), mode="nearest-exact"), face_keypoints(poses)[0]
