"""Photos and generated pictures are decoded alike, and a file that cannot be read is named."""

import numpy as np
import pytest
from PIL import Image

from facecdm.errors import BadFile
from facecdm.evaluation.pictures import cached_opener


def test_a_photo_is_turned_as_its_exif_says(people, tmp_path):
    """Phones save the sensor's picture and an orientation: 6 means a quarter turn clockwise."""
    photo = Image.open(people["0005"][0]).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.rotate(90, expand=True).save(tmp_path / "phone.png", exif=exif)
    assert np.array_equal(cached_opener()(tmp_path / "phone.png"), np.asarray(photo))


def test_photos_are_decoded_as_in_training(tmp_path):
    """On white if transparent; 16-bit grey is scaled, not clipped."""
    Image.new("LA", (8, 6)).save(tmp_path / "clear.png")
    Image.fromarray(np.full((6, 8), 20000, np.uint16)).save(tmp_path / "deep.tif")
    clear, deep = (cached_opener()(tmp_path / name) for name in ("clear.png", "deep.tif"))
    assert clear.shape == deep.shape == (6, 8, 3) and (clear == 255).all() and (deep == 78).all()


def test_a_file_that_is_no_picture_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(BadFile, match="a.png cannot be read as a picture"):
        cached_opener()(tmp_path / "a.png")
