"""Pictures from outside: common formats by content, nothing that starts a program."""

import io

import pytest
from PIL import Image, UnidentifiedImageError

from facecdm.pictures import open_picture


def encoded(name: str) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 6), "red").save(data, name)
    return data.getvalue()


@pytest.mark.parametrize("name", ["png", "jpeg", "webp", "gif", "bmp", "tiff"])
def test_formats_that_are_read(tmp_path, name):
    path = tmp_path / "x.dat"
    path.write_bytes(encoded(name))
    assert open_picture(path).size == open_picture(encoded(name)).size == (8, 6)


@pytest.mark.parametrize("name", ["eps", "pdf", "ppm", "tga"])
def test_formats_that_are_not(name):
    with pytest.raises(UnidentifiedImageError, match="^its content is none of PNG, JPEG, "):
        open_picture(encoded(name))
