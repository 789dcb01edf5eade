"""Pictures from outside: common formats by content, nothing that starts a program."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, UnidentifiedImageError

from facecdm.pictures import open_picture, rgb, uint8_rgb, upright_rgb


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
    with pytest.raises(UnidentifiedImageError, match="^it is in none of the formats PNG, JPEG, "):
        open_picture(encoded(name))


def reopened(picture: Image.Image, kind: str, **options) -> np.ndarray:
    """The picture as it is decoded from a file."""
    data = io.BytesIO()
    picture.save(data, kind, **options)
    shown = upright_rgb(open_picture(data.getvalue()))
    assert shown.mode == "RGB"
    return np.asarray(shown)


def test_an_rgb_picture_is_decoded_without_loss():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    assert np.array_equal(reopened(Image.fromarray(pixels), "png"), pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    assert np.array_equal(reopened(Image.fromarray(pixels), "png", exif=exif), np.rot90(pixels, -1))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("alpha,expected", [(0, 255), (255, 100), (128, 177)])
def test_transparency_is_on_white(mode, alpha, expected):
    colour = (100, alpha) if mode == "LA" else (100, 100, 100, alpha)
    assert (reopened(Image.new(mode, (8, 6), colour), "png") == expected).all()


def test_a_transparent_colour_of_a_palette_is_white():
    palette = Image.new("P", (8, 6), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    assert (reopened(palette, "png") == (255, 0, 0)).all()
    assert (reopened(palette, "png", transparency=1) == 255).all()


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_16_bit_grey_is_scaled(kind):
    grey = Image.fromarray(np.array([[0, 255, 20000, 65535]], np.uint16))
    assert reopened(grey, kind)[0].tolist() == [[v] * 3 for v in (0, 0, 78, 255)]


def test_images_of_a_graph_become_rgb():
    image = torch.rand(2, 4, 5, 4)
    assert rgb(image).equal(image[..., :3]) and rgb(image[..., :3]).equal(image[..., :3])
    for channels in (1, 2):
        assert rgb(image[..., :channels]).equal(image[..., :1].repeat(1, 1, 1, 3))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_uint8_is_rounded_to_the_nearest_and_clipped(channels):
    image = torch.linspace(-0.5, 1.5, 6 * 7).view(1, 6, 7, 1).repeat(1, 1, 1, channels)
    pixels = uint8_rgb(image)
    assert pixels.dtype == np.uint8 and pixels.shape == (1, 6, 7, 3) and pixels.flags.c_contiguous
    assert (pixels == np.rint(np.clip(image.numpy()[..., :1], 0, 1) * 255)).all()
    exact = torch.arange(256).view(16, 16, 1) / 255
    assert (uint8_rgb(exact)[..., 0].ravel() == np.arange(256)).all()
