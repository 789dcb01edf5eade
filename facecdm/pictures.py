"""Open untrusted pictures, in common raster formats only; convert any picture to RGB; encode."""

import io
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from torch import Tensor

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
        raise UnidentifiedImageError(f"it is in none of the formats {', '.join(_formats())}") from None


def upright_rgb(picture: "Image") -> "Image":
    """Decode an opened picture: turned upright by its EXIF orientation, on white if transparent, 8-bit RGB.

    Of 16-bit grey, the upper eight bits are kept. Raises Pillow's errors for a damaged file; they have many types.
    """
    from PIL import Image, ImageOps

    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I;16"):
        import numpy as np

        # Pillow's convert would clip it to white.
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        paper = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(paper, picture)
    return picture.convert("RGB")


def rgb(image: "Tensor") -> "Tensor":
    """A view of IMAGE [..., C] as RGB [..., 3]: grey is repeated, channels beyond the third (alpha) are dropped."""
    return image[..., :3] if image.shape[-1] >= 3 else image[..., :1].expand(*image.shape[:-1], 3)


def uint8_rgb(image: "Tensor") -> "np.ndarray":
    """Convert IMAGE [..., C] in 0 … 1 to uint8 RGB [..., 3], contiguous. Values beyond 0 … 1 are clipped."""
    import numpy as np

    return np.ascontiguousarray((rgb(image).detach().float().cpu().clamp(0, 1) * 255).round().byte().numpy())


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
