"""Reference images: photos of the people to be shown."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..comfy_api.names import sanitise_filename, unique_name
from ..errors import BadFile
from ..files import PACKAGE
from ..pictures import open_picture, upright_rgb

if TYPE_CHECKING:
    from PIL.Image import Image

EXAMPLES = PACKAGE / "demo" / "assets"  # file names as in the shipped workflows
FACEWORLD_REFERENCE = EXAMPLES / "faceworld.webp"
DEFAULT = (FACEWORLD_REFERENCE, EXAMPLES / "faceworld-2.webp")  # two people whom the demo model can show

LONGEST_STEM = 100  # bytes; leaves room for numbers and a suffix


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
    try:
        picture = upright_rgb(open_picture(data))
    except ModuleNotFoundError:  # no Pillow
        raise
    except Exception as error:  # Pillow raises many types for damaged files
        raise BadFile(f"{name} is no picture ({error}): use a whole PNG, JPEG or WebP") from error
    return Reference(sanitise_filename(name), data, picture)


def unique(references: list[Reference]) -> list[Reference]:
    """Add numbers to repeated stems and shorten long ones, because results are stored under these stems."""
    taken: set[str] = set()
    renamed = []
    for item in references:
        stem = unique_name(sanitise_filename(Path(item.name).stem, LONGEST_STEM), taken)
        renamed.append(Reference(stem + Path(item.name).suffix, item.data, item.picture))
    return renamed
