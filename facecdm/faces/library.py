"""The library of faces: FACES as safetensors files in one folder."""

import json
from pathlib import Path

import torch
from torch import Tensor

from ..errors import BadFile, FaceCDMError, MissingModel
from ..files import check_filename, find_named, write_named
from .value import Face, Faces

FORMAT = "facecdm.faces"
VERSION = "1"
HINT = "Write one with Save Faces, then refresh the list (R)."


def save_faces(faces: Faces, folder: Path, name: str, overwrite: bool = False) -> Path:
    """Write folder/name.safetensors and return the path. Raises NoFace, and the errors of `files.write_named`."""
    from safetensors.torch import save

    check_filename(name)  # before anything else is reported
    data = save(_tensors(faces.required("Save Faces")), _metadata(faces))
    return write_named(data, folder, name, overwrite)


def find_faces_file(folders: list[Path], name: str) -> Path:
    """See `files.find_named`."""
    return find_named(folders, name, HINT)


def load_faces(path: Path) -> Faces:
    """Read FACES. Raises MissingModel, BadFile (truncated, of another or a newer format, NaN)."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise MissingModel(f"There is no face file {path}. {HINT}")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise BadFile(f"{path} is no face file (Save Faces writes {FORMAT!r} into its metadata).")
            if metadata.get("version") != VERSION:
                raise BadFile(
                    f"{path} has the version {metadata.get('version')} of the format; this FaceCDM "
                    f"reads version {VERSION}. Update FaceCDM."
                )
            return _faces({key: file.get_tensor(key) for key in file.keys()}, metadata)
    except BadFile:
        raise
    except (SafetensorError, FaceCDMError, OSError, LookupError, ValueError, TypeError, RuntimeError) as error:
        raise BadFile(
            f"{path} cannot be read as a face file: {error or type(error).__name__}. It is probably "
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
    """Crops and landmarks are separate tensors: sizes may differ, and landmarks may be absent."""
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
    names = json.loads(metadata["names"])
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
    return Faces(tuple(faces), metadata["recogniser"], int(metadata.get("pictures", _frames(faces))))


def _frames(faces: list[Face]) -> int:
    """The pictures of a file from before their number was saved: rising indices are taken for a video's."""
    indices = [face.image_index for face in faces]
    return indices[-1] + 1 if len(set(indices)) > 1 and indices == sorted(indices) else 0
