"""Reference images: photos of the people to be shown."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..comfy_api.names import sanitise_filename
from ..errors import BadFile
from ..files import PACKAGE
from ..pictures import open_picture

if TYPE_CHECKING:
    from PIL.Image import Image

EXAMPLES = PACKAGE / "demo" / "assets"  # file names as in the shipped workflows
FACEWORLD_REFERENCE = EXAMPLES / "faceworld.webp"
DEFAULT = (FACEWORLD_REFERENCE, EXAMPLES / "faceworld-2.webp")  # two people whom the demo model can show


@dataclass(frozen=True)
class Reference:
    """
    name     safe file name
    data     content of the file
    picture  decoded picture, RGB, upright
    """

    name: str
    data: bytes
    picture: "Image"


def read_references(paths: list[Path] | None) -> list[Reference]:
    """Read the given images; without paths, two people of FaceWorld. Raises BadFile."""
    return unique([reference(path.name, path.read_bytes()) for path in paths or DEFAULT])


def copy_examples(folder: Path) -> None:
    """Copy the shipped workflows' images into an input folder. Existing files are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    for example in EXAMPLES.iterdir():
        if not (folder / example.name).exists():
            shutil.copy(example, folder)


def reference(name: str, data: bytes) -> Reference:
    """Decode an image file. Raises BadFile."""
    from PIL import ImageOps

    try:
        picture = ImageOps.exif_transpose(open_picture(data)).convert("RGB")
    except Exception as error:  # Pillow raises many types for damaged files
        raise BadFile(f"{name} is no picture ({error}): use a whole PNG, JPEG or WebP") from error
    return Reference(sanitise_filename(name), data, picture)


def unique(references: list[Reference]) -> list[Reference]:
    """Add numbers to repeated names, because results are stored under these names."""
    count: dict[str, int] = {}
    renamed = []
    for item in references:
        stem, suffix = Path(item.name).stem, Path(item.name).suffix
        count[stem] = count.get(stem, 0) + 1
        name = item.name if count[stem] == 1 else f"{stem}-{count[stem]}{suffix}"
        renamed.append(Reference(name, item.data, item.picture))
    return renamed
