"""Open untrusted pictures, in common raster formats only, and encode them."""

import io
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

# Without EPS: Pillow would start Ghostscript for it, whatever the file's suffix.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".avif")  # of photos


def open_picture(source: Path | bytes) -> "Image":
    """Open a picture as PIL.Image.open does, lazily. Raises the same errors; other formats count as unreadable."""
    from PIL import Image, UnidentifiedImageError

    if not isinstance(source, bytes):
        return Image.open(source, formats=_formats())
    try:
        return Image.open(io.BytesIO(source), formats=_formats())
    except UnidentifiedImageError:  # Pillow's message shows the address of the BytesIO
        raise UnidentifiedImageError(f"its content is none of {', '.join(_formats())}") from None


def png(pixels: "np.ndarray") -> bytes:
    """Encode RGB pixels, uint8 [H, W, 3], as a PNG file."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@cache
def _formats() -> tuple[str, ...]:
    """The common formats that this Pillow reads."""
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)
