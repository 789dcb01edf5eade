"""Read pictures from disk, with a cache of recent ones."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..errors import BadFile
from ..pictures import open_picture, upright_rgb

KEPT = 64


def cached_opener() -> Callable[[Path], np.ndarray]:
    """A function: path → RGB uint8 [H, W, 3], decoded by `upright_rgb`. It raises BadFile for an unreadable picture."""
    from PIL import Image

    @lru_cache(maxsize=KEPT)
    def read(path: Path) -> np.ndarray:
        try:
            with open_picture(path) as picture:
                return np.asarray(upright_rgb(picture))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise BadFile(f"{path} cannot be read as a picture: {error}") from error

    return read
