"""`python -m facecdm dataset …`: make a training data set from a folder of pictures."""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from ..comfyui_folders import find_base, find_comfyui
from ..devices import check_device
from ..errors import FaceCDMError, MissingModel
from ..training.dataset.settings import FRAMINGS, IDENTITIES, NO_CAPTION, POSES, SEVERAL, Settings

if TYPE_CHECKING:
    from ..training.dataset.encoders import Encoders

CHOICES = {"framing": FRAMINGS, "several": SEVERAL, "no_caption": NO_CAPTION, "identities": IDENTITIES, "pose": POSES}
HELP = {
    "resolution": "pixels (default: the base model's own)",
    "step": "sides of the buckets are multiples of it (default: the base model's own)",
    "aspect": "largest ratio of a bucket's longer to its shorter side; 1: one square bucket",
    "framing": "train on the whole picture, or on the portrait around the face",
    "several": "a picture with several faces: use the largest, or drop the picture",
    "min_score": "smallest score of the face detector",
    "min_face": "smallest ratio of the face's width to the shorter side of the bucket",
    "min_picture": "smallest ratio of a picture's shorter side to its bucket's",
    "no_caption": "a picture without a caption: use the empty one, or drop the picture",
    "identities": "auto: people from sub-folders and meta.jsonl, else by clustering the faces",
    "same_person": "mean cosine from which clustered faces are one person",
    "pose": "pictures for a pose ControlNet",
    "augmented": "number of variations of a photo where a person has no other photo",
    "detection_size": "size in pixels to which pictures are brought for the detector",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "source",
        type=Path,
        help="a folder of pictures (captions in .txt files or meta.jsonl, sub-folders are "
        "people), or FaceWorld with --splits",
    )
    add("out", type=Path, help="the data set's folder; an existing data set is updated")
    add("--model", default="demo", metavar="DIR", help="demo (default), or a diffusers model folder")
    add("--clip-vision", type=Path, metavar="DIR", help="folder of a CLIP vision model, for the image stream")
    add("--tokenizer", type=Path, metavar="DIR", help="CLIP's, for the demo model: ComfyUI's comfy/sd1_tokenizer")
    add("--device", default=None, help="cuda or cpu (default: the GPU, if there is one)")
    add("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of a diffusers model")
    add(
        "--faces",
        type=Path,
        metavar="DIR",
        help="folder of InsightFace packs (default: models/insightface of ComfyUI's base directory)",
    )
    add("--pack", metavar="NAME", help="the face pack (default: buffalo_l if it is there, else another that is)")
    add("--landmarks", action="store_true", help="also find 106 landmarks, for expressions and openpose")
    add("--provider", default="auto", help="device of ONNX Runtime")
    add("--splits", nargs="+", metavar="SPLIT", help="the source is FaceWorld: use these splits")
    add("--people", type=int, metavar="N", help="number of people of each split of FaceWorld")
    add(
        "--known-faces",
        type=Path,
        nargs="+",
        metavar="NPZ",
        help="tables of faces found before, one per split; nothing is detected",
    )
    add("--recogniser", default="buffalo_s/w600k_mbf.onnx", help="the recogniser that embedded the known faces")
    add("--prune", action="store_true", help="delete records that the data set no longer uses")
    add("--overwrite", action="store_true", help="replace a report or manifest in a folder that holds no data set")
    for field in dataclasses.fields(Settings):
        default = None if field.name in ("resolution", "step") else field.default
        text = HELP[field.name] + ("" if default is None else f" (default: {default})")
        add(
            f"--{field.name.replace('_', '-')}",
            type=type(field.default),
            default=default,
            choices=CHOICES.get(field.name),
            help=text,
        )


def main(arguments: argparse.Namespace, encoders: "Encoders | None" = None) -> int:
    """Prepare the data set; `encoders` are used instead of those that the arguments name."""
    from ..training.dataset.faceworld import FaceWorldSource
    from ..training.dataset.pipeline import prepare
    from ..training.dataset.sources import FolderSource

    encoders = encoders or _encoders(arguments)
    chosen = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(Settings)}
    chosen["resolution"] = chosen["resolution"] or encoders.resolution
    chosen["step"] = chosen["step"] or encoders.step
    settings = Settings(**chosen)
    source = (
        FaceWorldSource(arguments.source, tuple(arguments.splits), arguments.people)
        if arguments.splits
        else FolderSource(arguments.source)
    )
    with Bars() as bars:
        finder = _finder(arguments, settings)
        data = prepare(source, arguments.out, encoders, finder, settings, bars, arguments.prune, arguments.overwrite)
    print((arguments.out / "report.md").read_text(encoding="utf-8"))
    print(f"{arguments.out}: fingerprint {data.fingerprint[:16]}; see report.md and contact.jpg there")
    return 0


def _encoders(arguments: argparse.Namespace):
    import torch

    device = check_device(arguments.device)
    if arguments.model == "demo":
        from ..training.dataset.demo import DemoEncoders

        tokenizer = arguments.tokenizer
        if tokenizer is None:
            tokenizer = _found(find_comfyui(), "CLIP's tokenizer", "--tokenizer") / "comfy/sd1_tokenizer"
        return DemoEncoders(tokenizer, device=device)
    from ..hosts.diffusers.dit_encoders import open_encoders

    return open_encoders(Path(arguments.model), arguments.clip_vision, device, getattr(torch, arguments.dtype))


def _found(folder: Path | None, wanted: str, option: str) -> Path:
    """The folder. If it is None, raises MissingModel, whose message names `wanted` and the `option` to give."""
    if folder is None:
        raise MissingModel(
            f"no ComfyUI was found to take {wanted} from: give {option}, or ComfyUI's folder as FACECDM_COMFYUI"
        )
    return folder


def _finder(arguments: argparse.Namespace, settings: Settings):
    from ..training.dataset.faces import AnalyzerFinder, known_from_npz

    if arguments.known_faces:
        return _known(arguments, known_from_npz)
    from ..faces.analyzer import open_pack
    from ..faces.packs import default_pack

    faces = arguments.faces
    if faces is None:
        base = _found(find_base(find_comfyui()), "InsightFace's packs", "--faces")
        faces = base / "models" / "insightface"
    return AnalyzerFinder(
        open_pack([faces], arguments.pack or default_pack([faces]), arguments.provider, arguments.landmarks), settings
    )


def _known(arguments: argparse.Namespace, known_from_npz):
    """FaceWorld's known faces, in the order of the label files. The pictures have 256 × 256 pixels."""
    from ..demo.data import read_labels

    if len(arguments.splits or ()) != len(arguments.known_faces):
        raise FaceCDMError("--known-faces needs one table for each of FaceWorld's --splits")
    tables = [
        (path, [label["file"] for label in read_labels(arguments.source, (split,))])
        for path, split in zip(arguments.known_faces, arguments.splits)
    ]
    return known_from_npz(tables, (256, 256), arguments.recogniser)


class Bars:
    """A progress bar for each stage."""

    def __init__(self) -> None:
        self._stage, self._bar = "", None

    def __enter__(self) -> "Bars":
        return self

    def __exit__(self, *_) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, stage: str, done: int, total: int) -> None:
        from tqdm import tqdm

        if stage != self._stage:
            self.__exit__()
            self._stage, self._bar = stage, tqdm(total=total, desc=stage, unit="picture", mininterval=0.5)
        self._bar.update(done - self._bar.n)
