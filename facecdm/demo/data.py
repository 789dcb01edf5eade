"""FaceWorld on disk: labelled synthetic portraits as one array of pixels and a list of labels."""

import json
import random
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import BadFile, MissingModel
from ..files import write_atomically
from ..pictures import open_picture

# Attributes that a caption states and its picture shows; the CLIP towers are trained to classify each.
ATTRIBUTES = (
    "gender",
    "age",
    "hair_style",
    "hair_colour",
    "expression",
    "shirt_colour",
    "shirt_pattern",
    "background_colour",
    "background_kind",
)


@dataclass(frozen=True)
class Portraits:
    """`pixels` uint8 [N, size, size, 3] RGB, and a label dictionary (see FaceWorld's README) per picture."""

    pixels: np.ndarray
    labels: list[dict]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def captions(self) -> list[str]:
        return [label["caption"] for label in self.labels]

    def classes(self) -> dict[str, list[str]]:
        """For each attribute, the sorted values that occur."""
        return {a: sorted({str(label[a]) for label in self.labels}) for a in ATTRIBUTES}


def read_labels(root: Path, splits: tuple[str, ...]) -> list[dict]:
    """Read the label dictionaries of whole splits. Raises MissingModel if FaceWorld is not at `root`."""
    for split in splits:
        if not (root / f"{split}.jsonl").is_file():
            raise MissingModel(f"no FaceWorld in {root} ({split}.jsonl is missing): name the folder that has it")
    return [json.loads(line) for split in splits for line in (root / f"{split}.jsonl").open()]


def load(root: Path, splits: tuple[str, ...], size: int, cache: Path | None = None) -> Portraits:
    """Read whole splits of FaceWorld (`SPLIT.jsonl` beside `SPLIT/NN.tar`), resized to `size` pixels.

    If the folder `cache` is given, decoded pixels are saved there and memory-mapped.
    """
    labels = read_labels(root, splits)
    kept = cache / f"{'-'.join(splits)}-{size}.npy" if cache else None
    if kept is not None and kept.exists():
        pixels = np.load(kept, mmap_mode="r")
        if len(pixels) == len(labels):
            return Portraits(pixels, labels)
    pixels = _decode(root, labels, size)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, lambda file: np.save(file, pixels))
    return Portraits(pixels, labels)


def _decode(root: Path, labels: list[dict], size: int) -> np.ndarray:
    from PIL.Image import Resampling
    from tqdm import tqdm

    row_of = {label["file"]: row for row, label in enumerate(labels)}
    pixels = np.zeros((len(labels), size, size, 3), np.uint8)
    left = set(row_of)
    with tqdm(total=len(labels), desc="decoding FaceWorld", unit="picture", mininterval=2) as progress:
        for shard in sorted({label["shard"] for label in labels}):
            with tarfile.open(root / shard) as archive:
                for member in archive:
                    row = row_of.get(member.name)
                    if row is None:
                        continue
                    picture = open_picture(archive.extractfile(member).read()).convert("RGB")
                    pixels[row] = np.asarray(picture.resize((size, size), Resampling.LANCZOS))
                    left.discard(member.name)
                    progress.update()
    if left:
        raise BadFile(
            f"{root}: {len(left)} pictures of the label files are in no shard, "
            f"such as {min(left)}; copy FaceWorld again"
        )
    return pixels


def reword(caption: str, rng: random.Random) -> str:
    """Rephrase the caption: sometimes omit or reorder clauses.

    Without this, a model understands only the data set's own order of clauses.
    """
    if rng.random() < 0.5:
        return caption
    first, *rest = caption.split(", ")
    rest = [clause for clause in rest if rng.random() > 0.15]
    rng.shuffle(rest)
    return ", ".join([first, *rest])
