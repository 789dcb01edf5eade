"""The pictures of the people who are to be portrayed."""

import io
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..comfy_api.names import sanitise_filename
from ..errors import BadFile
from ..files import PACKAGE

if TYPE_CHECKING:
    from PIL.Image import Image

EXAMPLES = PACKAGE / "demo" / "assets"  # under the names that the workflows give them
FACEWORLD_REFERENCE = EXAMPLES / "faceworld.webp"


@dataclass(frozen=True)
class Reference:
    name: str
    data: bytes
    picture: "Image"


def read_references(paths: list[Path] | None) -> list[Reference]:
    """The pictures, read whole; without paths an astronaut's and a FaceWorld face. Raises BadFile."""
    if paths:
        return unique([reference(path.name, path.read_bytes()) for path in paths])
    default = reference(FACEWORLD_REFERENCE.name, FACEWORLD_REFERENCE.read_bytes())
    try:
        from skimage import data
    except ImportError:
        return [default]
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(data.astronaut()).save(file, "png")
    return [reference("astronaut.png", file.getvalue()), default]


def lay_out_examples(folder: Path) -> None:
    """The pictures that the shipped workflows name into an input `folder`; what is there already stays."""
    folder.mkdir(parents=True, exist_ok=True)
    for example in EXAMPLES.iterdir():
        if not (folder / example.name).exists():
            shutil.copy(example, folder)


def reference(name: str, data: bytes) -> Reference:
    from PIL import Image, ImageOps

    try:
        picture = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    except Exception as error:  # Pillow raises many types for damaged files
        raise BadFile(f"{name} is no picture ({error}): use a whole PNG, JPEG or WebP") from error
    return Reference(sanitise_filename(name), data, picture)


def unique(references: list[Reference]) -> list[Reference]:
    """Two files of one name get two names: results are written under them."""
    seen: dict[str, int] = {}
    renamed = []
    for item in references:
        stem, suffix = Path(item.name).stem, Path(item.name).suffix
        seen[stem] = seen.get(stem, 0) + 1
        name = item.name if seen[stem] == 1 else f"{stem}-{seen[stem]}{suffix}"
        renamed.append(Reference(name, item.data, item.picture))
    return renamed
