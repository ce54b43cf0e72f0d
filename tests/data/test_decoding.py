import io

import numpy as np
import pytest
from PIL import Image

from diffusion_lab.data.decoding import decode

RED_LEFT = np.zeros((20, 30, 3), np.uint8)
RED_LEFT[:, :15, 0] = 255


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def mean_colour(picture: Image.Image) -> list[int]:
    return np.asarray(picture).reshape(-1, 3).mean(0).round().astype(int).tolist()


def test_png_comes_back_bit_for_bit():
    pixels = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    assert np.array_equal(decode(encoded(Image.fromarray(pixels), "PNG")), pixels)


def test_cmyk_is_rgb():
    picture = decode(encoded(Image.new("RGB", (16, 16), (200, 40, 90)).convert("CMYK"), "JPEG", quality=100))
    assert picture.mode == "RGB"
    assert np.abs(np.subtract(mean_colour(picture), (200, 40, 90))).max() <= 2


def test_grey_has_three_equal_channels():
    pixels = np.asarray(decode(encoded(Image.linear_gradient("L"), "PNG")))
    assert pixels.shape == (256, 256, 3)
    assert np.array_equal(pixels[..., 0], np.asarray(Image.linear_gradient("L")))
    assert np.array_equal(pixels[..., 0], pixels[..., 2])


def test_sixteen_bit_grey_keeps_its_brightness():
    deep = Image.fromarray((np.arange(256, dtype=np.uint16) * 257).reshape(16, 16))
    assert np.array_equal(np.asarray(decode(encoded(deep, "PNG")))[..., 0].ravel(), np.arange(256))


def test_transparency_lies_over_white():
    assert mean_colour(decode(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 0)), "PNG"))) == [255, 255, 255]
    assert mean_colour(decode(encoded(Image.new("LA", (4, 4), (0, 255)), "PNG"))) == [0, 0, 0]
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([9, 9, 9])
    assert mean_colour(decode(encoded(palette, "PNG", transparency=0))) == [255, 255, 255]


def test_exif_rotation_is_undone():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    turned = decode(encoded(Image.fromarray(RED_LEFT), "JPEG", exif=exif, quality=95))
    assert turned.size == (20, 30)
    assert np.asarray(turned)[:13, :, 0].mean() > 240  # red is on top now
    assert np.asarray(turned)[17:, :, 0].mean() < 15


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>Quota exceeded</html>",
        encoded(Image.fromarray(RED_LEFT), "JPEG")[:300],
        b"\x89PNG\r\n\x1a\n" + bytes(50),
    ],
    ids=["empty", "html", "cut JPEG", "broken PNG"],
)
def test_anything_else_is_an_os_error(data):
    with pytest.raises(OSError, match=r"the file is empty|not a picture that can be read"):
        decode(data)
