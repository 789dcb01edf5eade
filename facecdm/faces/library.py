"""The library of faces: FACES as safetensors files in one folder."""

import json
import os
from pathlib import Path

import torch
from torch import Tensor

from ..documents import parse_json
from ..errors import BadFile, FaceCDMError, MissingModel
from ..files import check_filename, find_named, write_named
from ..tensor_file import open_safetensors
from .value import MOST, Face, Faces

FORMAT = "facecdm.faces"
VERSION = "1"
DTYPES = {"image_sizes": torch.int64, "image_indices": torch.int64, "crop": torch.uint8}  # the rest: float32
HINT = "Write one with Save Faces, then refresh the list (R)."


def save_faces(faces: Faces, folder: Path, name: str, overwrite: bool = False) -> Path:
    """Write folder/name.safetensors and return the path. Raises NoFace, and the errors of `files.write_named`."""
    from safetensors.torch import save

    check_filename(name)  # report a bad name first
    data = save(_tensors(faces.required("Save Faces")), _metadata(faces))
    return write_named(data, folder, name, overwrite)


def find_faces_file(folders: list[Path], name: str) -> Path:
    """See `files.find_named`."""
    return find_named(folders, name, HINT)


def load_faces(path: Path) -> Faces:
    """Read FACES. Raises MissingModel, BadFile (truncated, other or newer format, NaN)."""
    if not os.path.isfile(path):  # Path.is_file would raise for a name that is too long
        raise MissingModel(f"There is no face file {path}. {HINT}")
    with open_safetensors(path) as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise BadFile(f"{path} is no face file (Save Faces writes {FORMAT!r} into its metadata).")
        if metadata.get("version") != VERSION:
            raise BadFile(
                f"{path} has the version {metadata.get('version')} of the format; this FaceCDM "
                f"reads version {VERSION}. Update FaceCDM."
            )
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    try:
        return _faces(tensors, metadata)
    except (FaceCDMError, LookupError, ValueError, TypeError, RuntimeError, ArithmeticError) as error:
        raise BadFile(
            f"{path} cannot be read as a face file: {str(error)[:300] or type(error).__name__}. It is probably "
            "damaged or was cut off: save the faces again."
        ) from error


def _metadata(faces: Faces) -> dict[str, str]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "recogniser": faces.recogniser,
        "count": str(len(faces)),
        "pictures": str(faces.pictures),
        "names": json.dumps([face.name for face in faces], ensure_ascii=False),
    }


def _tensors(faces: Faces) -> dict[str, Tensor]:
    """Tensors to save. Crops and landmarks are separate: sizes may differ, and landmarks may be absent."""
    tensors = {
        "embeddings": faces.raw,
        "keypoints": torch.stack([face.keypoints for face in faces]),
        "boxes": torch.stack([face.box for face in faces]),
        "scores": torch.tensor([face.score for face in faces], dtype=torch.float32),
        "image_sizes": torch.tensor([face.image_size for face in faces], dtype=torch.int64),
        "image_indices": torch.tensor([face.image_index for face in faces], dtype=torch.int64),
    }
    for i, face in enumerate(faces):
        tensors[f"crop.{i}"] = (face.crop.clamp(0, 1) * 255).round().to(torch.uint8).contiguous()
        if face.landmarks is not None:
            tensors[f"landmarks.{i}"] = face.landmarks
    return {key: tensor.contiguous() for key, tensor in tensors.items()}


def _faces(tensors: dict[str, Tensor], metadata: dict[str, str]) -> Faces:
    names = parse_json(metadata["names"])
    count = len(names)
    if any(len(tensor) != count for key, tensor in tensors.items() if "." not in key):
        raise ValueError(f"its tensors are not of {count} faces")
    for key, tensor in tensors.items():
        if tensor.dtype != DTYPES.get(key.partition(".")[0], torch.float32):
            raise ValueError(f"{key} is {tensor.dtype}")
    if tensors["image_sizes"].shape != (count, 2):
        raise ValueError("image_sizes are not pairs")
    faces = [
        Face(
            embedding=embedding.clone(),
            keypoints=tensors["keypoints"][i].clone(),
            box=tensors["boxes"][i].clone(),
            score=float(tensors["scores"][i]),
            image_size=tuple(tensors["image_sizes"][i].tolist()),
            image_index=int(tensors["image_indices"][i]),
            crop=tensors[f"crop.{i}"].float() / 255,
            landmarks=tensors[f"landmarks.{i}"].clone() if f"landmarks.{i}" in tensors else None,
            name=str(names[i]),
        )
        for i, embedding in enumerate(tensors["embeddings"])
    ]
    if not faces:
        raise ValueError("it holds no face")
    pictures = int(metadata.get("pictures", _frames(faces)))
    if not 0 <= pictures <= MOST:
        raise ValueError(f"it names {pictures:,} pictures")
    return Faces(tuple(faces), metadata["recogniser"], pictures)


def _frames(faces: list[Face]) -> int:
    """Guess the number of pictures for old files, which lack it: rising indices mean a video; else 0."""
    indices = [face.image_index for face in faces]
    return indices[-1] + 1 if len(set(indices)) > 1 and indices == sorted(indices) else 0
