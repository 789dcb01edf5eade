"""The library of faces: FACES in safetensors files, by name, in a folder that no name can leave."""

import json
import os
import re
from pathlib import Path, PurePosixPath
from uuid import uuid4

import torch
from torch import Tensor

from ..errors import BadFile, FaceCDMError, MissingModel, UnsafeName
from .value import Face, Faces

FORMAT = "facecdm.faces"
VERSION = "1"
SUFFIX = ".safetensors"
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}


def safe_name(name: str) -> str:
    """The name without suffix, if it is one plain file name on every system. Raises UnsafeName."""
    stem = name.strip().removesuffix(SUFFIX)
    plain = re.fullmatch(r"[\w][\w .,()+\-]{0,99}", stem) is not None and stem == stem.rstrip(" .")
    if not plain or len(stem.encode()) > 200 or stem.split(".")[0].rstrip().lower() in _RESERVED:
        raise UnsafeName(
            f"{name!r} cannot be the name of a face file. Use letters, digits, spaces and - _ . , ( ) +, "
            "begin with a letter or digit, and name no folder."
        )
    return stem


def save_faces(faces: Faces, folder: Path, name: str, overwrite: bool = False) -> Path:
    """Write FACES to folder/name.safetensors and return the path.

    A file that is there already stays: "_2", "_3" … is appended, unless overwrite. The file appears whole or
    not at all. Raises UnsafeName, NoFace, FaceCDMError (folder cannot be written).
    """
    from safetensors.torch import save

    stem = safe_name(name)
    data = save(_tensors(faces.required("Save Faces")), _metadata(faces))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / (stem + SUFFIX) if overwrite else _claim(folder, stem)
        _write(path, data)
    except OSError as error:
        raise FaceCDMError(
            f"The faces could not be written into {folder}: {error}. "
            "Look at the folder's rights and the free space."
        ) from error
    return path


def find_faces_file(folders: list[Path], name: str) -> Path:
    """The file of that name (perhaps in a subfolder, as ComfyUI lists it) in the first folder that has it.

    Raises UnsafeName, MissingModel.
    """
    relative = PurePosixPath(name.replace("\\", "/").removesuffix(SUFFIX) + SUFFIX)
    if relative.is_absolute() or ".." in relative.parts or ":" in name or "\0" in name:
        raise UnsafeName(f"{name!r} cannot be the name of a face file: it leaves the folder of saved faces.")
    for folder in folders:
        if (folder / relative).is_file():
            return folder / relative
    looked = ", ".join(str(folder) for folder in folders)
    raise MissingModel(
        f"There is no face file {relative} (looked in {looked}). Write one with Save Faces, then "
        "refresh the list (R)."
    )


def load_faces(path: Path) -> Faces:
    """Read FACES. Raises MissingModel (no such file), BadFile (truncated, foreign, newer, NaN)."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise MissingModel(
            f"There is no face file {path}. Save one with Save Faces, then refresh the list (R)."
        )
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
    except (
        SafetensorError,
        FaceCDMError,
        OSError,
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        RuntimeError,
    ) as error:
        raise BadFile(
            f"{path} cannot be read as a face file: {error or type(error).__name__}. It is probably "
            "damaged or was cut off: save the faces again."
        ) from error


def _claim(folder: Path, stem: str) -> Path:
    """The first free name, taken at once by an empty file, so that no other writer takes it."""
    for count in range(1, 100_000):
        path = folder / f"{stem}{'' if count == 1 else f'_{count}'}{SUFFIX}"
        try:
            path.open("xb").close()
            return path
        except FileExistsError:
            continue
    raise FaceCDMError(f"{folder} is full of files named {stem}: choose another name.")


def _write(path: Path, data: bytes) -> None:
    claimed = path.exists() and path.stat().st_size == 0
    temporary = path.with_name(f".{uuid4().hex}.part")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        if claimed:
            path.unlink(missing_ok=True)
        raise


def _metadata(faces: Faces) -> dict[str, str]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "recogniser": faces.recogniser,
        "count": str(len(faces)),
        "names": json.dumps([face.name for face in faces], ensure_ascii=False),
    }


def _tensors(faces: Faces) -> dict[str, Tensor]:
    """Crops and landmarks stand one by one: their sizes may differ, or they may be absent."""
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
    made = [
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
    if not made:
        raise ValueError("no face in it")
    return Faces(tuple(made), metadata["recogniser"])
