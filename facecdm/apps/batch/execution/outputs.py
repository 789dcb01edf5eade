"""Fetch the files that a job made, within size limits; check them and give them safe suffixes."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from ....comfy_api.client import MEBI
from ....comfy_api.history import Finished
from ....errors import FaceCDMError
from ....pictures import open_picture

MOST_FILES, MOST_BYTES = 1000, 1024 * MEBI  # limits of one job
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".avif", ".bmp", ".tif", ".tiff")
SUFFIXES = {
    *PICTURES,
    *(".mp4", ".webm", ".mov", ".mkv", ".avi"),
    *(".flac", ".mp3", ".opus", ".ogg", ".wav"),
    *(".latent", ".safetensors", ".glb", ".obj", ".exr", ".json", ".txt"),
}
CHECKED = tuple(suffix for suffix in PICTURES if suffix != ".avif")  # not every Pillow reads AVIF


class NoOutput(FaceCDMError):
    """A job succeeded, but its output is empty, too large, or unreadable, or took too long."""


@dataclass(frozen=True)
class OutputFile:
    """
    suffix  one of SUFFIXES, or .bin
    data    the content
    """

    suffix: str
    data: bytes


async def fetch_outputs(connection, finished: Finished, file_limit: int) -> list[OutputFile]:
    """The saved files of a job. Raises NoOutput, and the errors of Connection.fetch.

    file_limit  largest size of a file, bytes
    """
    outputs = list(dict.fromkeys(output for output in finished.outputs if output.type == "output"))
    if not outputs:
        raise NoOutput("the workflow saved no file")
    if len(outputs) > MOST_FILES:
        raise NoOutput(f"the job made {len(outputs)} files; at most {MOST_FILES} are taken")
    files, left = [], MOST_BYTES
    for output in outputs:
        data = await connection.fetch(output, min(file_limit, left))
        left -= len(data)
        files.append(OutputFile(suffix_of(output.filename), data))
    await asyncio.to_thread(_check_pictures, files)
    return files


def suffix_of(filename: str) -> str:
    """The suffix of a server's file name if it is in SUFFIXES, else .bin."""
    suffix = Path(filename).suffix.lower()
    return suffix if suffix in SUFFIXES else ".bin"


def _check_pictures(files: list[OutputFile]) -> None:
    """Raises NoOutput if a picture cannot be read."""
    from PIL import Image

    for file in files:
        if file.suffix in CHECKED:
            try:
                with open_picture(file.data) as picture:
                    picture.load()
            except Image.DecompressionBombError:
                continue  # too large to check; it is kept
            except Exception as error:  # Pillow raises many types
                raise NoOutput(f"a picture of the job cannot be read ({error!s:.200})") from error
