"""Pictures from disk, the last few kept."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..errors import BadFile

KEPT = 64


def opener() -> Callable[[Path], np.ndarray]:
    """A function path → RGB uint8 [H, W, 3], upright. Raises BadFile where a file is no picture."""
    from PIL import Image, ImageOps

    @lru_cache(maxsize=KEPT)
    def open_picture(path: Path) -> np.ndarray:
        try:
            with Image.open(path) as picture:
                return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise BadFile(f"{path} is no picture that can be read: {error}") from error

    return open_picture
