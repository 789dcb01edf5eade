"""The people and prompts: FaceWorld's `val` people, held out from all trainings."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from facecdm.demo import data, measure
from facecdm.errors import FaceCDMError
from facecdm.files import write_atomically
from facecdm.pictures import png
from facecdm.training.rows import Prompt

from .training import digest

SIZE = 256  # of the reference photos, as FaceWorld has them


@dataclass(frozen=True)
class Request:
    """An image to sample.

    person      number of the person
    prompt      the caption of another person's picture
    yaw         of that picture
    attributes  what the prompt asks for, and what the reference shows (facecdm.evaluation.attributes)
    """

    person: int
    prompt: str
    yaw: float
    attributes: str = ""


@dataclass(frozen=True, eq=False)
class EvaluationSet:
    """The people and requests of P people and A images, with their encodings.

    names       of the people
    references  pictures whose faces are the adapters' references
    held_out    other pictures of the same people
    described   the pictures that the prompts describe
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
    described: list[Path]
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


# Attributes that may contradict the reference; gender agrees, and shirt and background are not the person's.
CONFLICTING = ("expression", "hair_style", "hair_colour", "age")


def choose(labels: list[dict], references: list[int], prompts: int) -> list[tuple[int, int]]:
    """Choose the requests: (number of the person, row of the label whose caption is the prompt).

    references  the row of each person's reference

    A prompt is the caption of another person of the same gender. Every second one is the caption that contradicts the
    reference most, in expression, hair style, hair colour and age: two of these may be the same. The others contradict
    it by chance.
    """
    gender = {label["identity"]: label["gender"] for label in labels}
    everyone, requests = list(gender), []
    for n in range(prompts):
        for number, row in enumerate(references):
            reference = labels[row]
            here = everyone.index(reference["identity"])
            next_ones = everyone[here + 1 :] + everyone[:here]
            alike = [name for name in next_ones if gender[name] == reference["gender"]] or next_ones
            alike = alike[n % len(alike) :] + alike[: n % len(alike)]
            rows = [row for name in alike for row in _rows_of(labels, name)[2:]] or [row]
            best = max(rows, key=lambda row: len(conflicts(labels[row], reference)))
            requests.append((number, best if n % 2 else rows[n % len(rows)]))
    return requests


def _rows_of(labels: list[dict], name: str) -> list[int]:
    return [row for row, label in enumerate(labels) if label["identity"] == name]


def _value(label: dict, name: str) -> str:
    """A label's attribute; "" for the hair colour of a bald head."""
    return "" if name == "hair_colour" and label["hair_style"] == "bald" else label[name]


def conflicts(asked: dict, reference: dict) -> list[str]:
    """The attributes in which two labels contradict each other."""
    pairs = {name: (_value(asked, name), _value(reference, name)) for name in CONFLICTING}
    return [name for name, (a, b) in pairs.items() if a and b and a != b]


def attributes_of(asked: dict, reference: dict, judged: bool = True) -> str:
    """The attributes that the caption of a label names, with those of the reference where they may conflict.

    Only the colours unless `judged`: without a judge nothing reads the others.
    """
    parts = [f"background: {asked['background_colour']}"]
    if measure.plain_shirts([asked]):
        parts.append(f"shirt: {asked['shirt_colour']}")
    for name in CONFLICTING if judged else ():
        if value := _value(asked, name):
            other = _value(reference, name)
            parts.append(f"{name}: {value} / {other}" if other else f"{name}: {value}")
    return "; ".join(parts)


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
    judged: bool = True,
) -> EvaluationSet:
    """Choose the people and encode everything; their pictures are written to `folder`.

    The first view of a person in which a face is found is the reference, the second one is held out. With an analyzer
    of `landmarks`, poses are drawn as well; `judged` is that of `attributes_of`. Raises FaceCDMError if no people are
    left.
    """
    val = data.load(faceworld, ("val",), SIZE, cache)
    everyone = dict.fromkeys(label["identity"] for label in val.labels)
    names = [name for name in everyone if name.split("-")[-1] not in left_out][:people]
    if not names:
        raise FaceCDMError("no people are left: --people is 0, or --leave-out names everyone")
    faces, references, held_out = [], [], []
    for name in names:
        (reference, face), (other, _) = _views_with_a_face(val, name, analyzer)
        faces.append(face)
        references.append(reference)
        held_out.append(other)
    requests = choose(val.labels, references, prompts)
    wanted = [
        Request(
            person,
            val.captions[row],
            val.labels[row]["yaw"],
            attributes_of(val.labels[row], val.labels[references[person]], judged),
        )
        for person, row in requests
    ]
    encoded = {prompt: encoders.text([prompt])[0] for prompt in {one.prompt for one in wanted} | {""}}
    described = [row for _, row in requests]
    posed = _poses(val, described, landmarks, encoders.resolution) if landmarks is not None else ()
    return EvaluationSet(
        names,
        *(_written(val, rows, folder) for rows in (references, held_out, described)),
        torch.stack(faces),
        encoders.vision([np.array(val.pixels[row]) for row in references]).cpu(),
        wanted,
        joined([encoded[one.prompt] for one in wanted]),
        joined([encoded[""]]),
        *posed,
    )


def _views_with_a_face(val: data.Portraits, name: str, analyzer) -> list[tuple[int, Tensor]]:
    """(row, embedding) of the first two views in which a face is found. Raises FaceCDMError if there are fewer."""
    found: list[tuple[int, Tensor]] = []
    for row in _rows_of(val.labels, name):
        if len(found) < 2 and (face := measure.embeddings(_pixels(val, [row]), analyzer)[0]) is not None:
            found.append((row, face))
    if len(found) < 2:
        raise FaceCDMError(f"{name} has fewer than two views in which a face is found")
    return found


def _written(portraits: data.Portraits, rows: list[int], folder: Path) -> list[Path]:
    """The pictures of the rows, as files in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{row:05d}.png" for row in rows]
    for row, path in zip(rows, paths):
        if not path.exists():
            write_atomically(path, png(np.array(portraits.pixels[row])))
    return paths


def joined(prompts: list[Prompt]) -> Prompt:
    """One Prompt, on the CPU, of prompts of one length."""
    pooled = None if prompts[0].pooled is None else torch.cat([one.pooled for one in prompts]).cpu()
    return Prompt(torch.cat([one.states for one in prompts]).cpu(), pooled)


def others(train: data.Portraits, folder: Path, count: int = 100) -> list[Path]:
    """Pictures of other people, written to `folder`; their mean embedding is subtracted."""
    return _written(train, np.linspace(0, len(train) - 1, count).astype(int).tolist(), folder)


class Reader:
    """An AttributeJudge: colours by nearest neighbours in `train`, the other attributes by a judge's file if given."""

    def __init__(self, train: data.Portraits, judge: Path | None):
        from facecdm.evaluation.judge import load

        self._background, self._shirt = measure.background_namer(train), measure.shirt_namer(train)
        self._judge = None if judge is None else load(judge)

    def read(self, picture: np.ndarray, keypoints: np.ndarray | None) -> dict[str, str]:
        pixels = torch.from_numpy(np.array(picture))[None]
        shown = {
            "background": self._background(measure.background_features(pixels))[0],
            "shirt": self._shirt(measure.shirt_features(pixels))[0],
        }
        return shown | (self._judge.read(picture, keypoints) if self._judge is not None else {})


def _pixels(val: data.Portraits, rows: list[int]) -> Tensor:
    return torch.from_numpy(np.array(val.pixels[rows]))


def _poses(val: data.Portraits, rows: list[int], landmarks, size: int) -> tuple[Tensor, Tensor]:
    """Pose drawings at the base model's resolution, resized as ComfyUI does it, and the face key points."""
    from facecdm.pose.extract import Drawing, FaceDetector, extract
    from facecdm.pose.location import face_keypoints

    poses = extract(FaceDetector(landmarks), _pixels(val, rows).float() / 255, "largest").poses
    hints = torch.from_numpy(np.stack([Drawing()(pose) for pose in poses])).movedim(-1, 1).float() / 255
    return torch.nn.functional.interpolate(hints, (size, size), mode="nearest-exact"), face_keypoints(poses)[0]
