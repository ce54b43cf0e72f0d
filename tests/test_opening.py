"""Picture files as people have them: every kind is read as it looks, or refused in a sentence."""

import importlib.util
import io
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from diffusion_lab import files, opening
from diffusion_lab.data.decoding import decode
from diffusion_lab.opening import as_rgb, opened

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


def tiff(values: NDArray[np.generic], **options: object) -> bytes:
    return encoded(Image.fromarray(values), "TIFF", **options)


def grey(content: bytes) -> NDArray[np.uint8]:
    """What both readers see of a file."""
    seen = np.asarray(as_rgb(opened(content, "image")))
    assert np.array_equal(seen, decode(content))
    assert (seen == seen[..., :1]).all()
    return seen[..., 0]


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.uint16])
@pytest.mark.parametrize("white", [1, 255, 65535])
def test_a_deep_picture_is_as_bright_as_its_values_mean(dtype: type[np.generic], white: int) -> None:
    """Floats of 0..1, 32-bit numbers of 0..255, ...: the same ramp, whatever it is counted in."""
    if white == 1 and dtype != np.float32:
        return
    assert np.array_equal(grey(tiff((RAMP * (white / 255)).astype(dtype))), RAMP)


def test_sixteen_bits_in_every_container() -> None:
    deep = RAMP.astype(np.uint16) * 257
    assert np.array_equal(grey(encoded(Image.fromarray(deep), "PNG")), RAMP)
    assert np.array_equal(grey(encoded(Image.fromarray(deep.astype(">u2")), "TIFF")), RAMP)


def test_signed_sixteen_bits_are_white_at_their_own_end() -> None:
    # A TIFF by hand, since Pillow writes none: 16x16, one strip, SampleFormat 2 = signed.
    values = np.rint(RAMP * (32767 / 255)).astype("<i2")
    tags = [(256, 16), (257, 16), (258, 16), (259, 1), (262, 1), (273, 0), (277, 1), (278, 16), (279, 512), (339, 2)]
    head = b"II*\0" + (8).to_bytes(4, "little") + len(tags).to_bytes(2, "little")
    start = 8 + 2 + 12 * len(tags) + 4
    for tag, value in tags:
        number = start if tag == 273 else value
        head += tag.to_bytes(2, "little") + (4 if tag in (273, 279) else 3).to_bytes(2, "little")
        head += (1).to_bytes(4, "little") + number.to_bytes(4, "little")
    content = head + bytes(4) + values.tobytes()
    assert np.abs(grey(content).astype(int) - RAMP).max() <= 1


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([0.0, 5.0], "from 0 to 5, which does not say what white is: save it with values from 0 to 1, to 255"),
        ([-1.0, 1.0], "from -1 to 1, which does not say what white is"),
        ([0.0, 1e6], "from 0 to 1e"),
        ([0.0, float("nan")], "which does not say what white is"),
        ([0.0, float("inf")], "which does not say what white is"),
        ([0, 70_000], "from 0 to 70000, which does not say"),
        ([-1, 100], "from -1 to 100, which does not say"),
    ],
)
def test_values_without_a_white_are_refused(values: list[float], said: str) -> None:
    array = np.array([values], np.float32 if isinstance(values[0], float) else np.int32)
    with pytest.raises(ValueError, match=said):
        as_rgb(opened(tiff(array), "image"))
    with pytest.raises(OSError, match="not a picture that can be read: the picture's values"):
        decode(tiff(array))


def test_the_overshoot_of_a_resampled_float_picture_is_white() -> None:
    assert grey(tiff(np.array([[-0.05, 0.5, 1.07]], np.float32))).tolist() == [[0, 128, 255]]


@given(st.lists(st.integers(0, 65535), min_size=2, max_size=9), st.sampled_from([np.uint16, np.int32, np.float32]))
def test_a_picture_that_is_not_black_is_never_read_as_black(values: list[int], dtype: type[np.generic]) -> None:
    """What is lightest in it keeps the level that 16 bits would give it at least, whatever it was counted in."""
    try:
        seen = np.asarray(as_rgb(Image.fromarray(np.array([values]).astype(dtype))))
    except ValueError:
        return
    highest = max(values)
    assert seen.max() >= min(highest, max(1, round(highest / 257)))
    assert (seen.max() > 0) == (highest > 0)


def test_grey_that_counts_down_is_refused() -> None:
    with pytest.raises(ValueError, match="counts from white to black"):
        opened(tiff(RAMP.astype(np.uint16) * 257, tiffinfo={262: 0}), "image")


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("BMP", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("GIF", {}, 0),
        ("JPEG", {"quality": 95}, 3),
        ("AVIF", {"quality": 95}, 3),
        pytest.param(
            "HEIF",
            {"quality": 95},
            3,
            marks=pytest.mark.skipif(not opening.heic(), reason="the extra heic is not installed"),
        ),
    ],
)
def test_every_format_is_read(tmp_path: Path, kind: str, options: dict[str, object], tolerance: int) -> None:
    smooth = Image.fromarray(RAMP).convert("RGB").resize((96, 64), Image.Resampling.BICUBIC)
    picture = smooth.convert("L") if kind == "GIF" else smooth
    path = tmp_path / f"a.{kind.lower()}"
    path.write_bytes(encoded(picture, kind, **options))
    for seen in (as_rgb(opened(path, "image")), decode(path.read_bytes())):
        assert np.abs(np.asarray(seen).astype(int) - np.asarray(picture.convert("RGB"))).max() <= tolerance


def heif(brands: bytes) -> bytes:
    return (8 + len(brands)).to_bytes(4) + b"ftyp" + brands + bytes(64)


def test_heic_without_its_decoder_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "heic", lambda: False)
    iphone = heif(b"heic\0\0\0\0mif1MiHBMiHAheicheix")
    with pytest.raises(ValueError, match="HEIC needs the package pillow-heif: install it, or save the picture as JPEG"):
        opened(iphone, "image")
    with pytest.raises(OSError, match="HEIC needs the package pillow-heif"):
        decode(iphone)


def test_who_does_not_list_heic_does_not_wake_its_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "heic", lambda: pytest.fail("asked"))
    for brands in (b"heic\0\0\0\0mif1heic", b"mif1\0\0\0\0mif1heic"):
        with pytest.raises(ValueError, match=r"as a PNG/JPEG/WEBP picture \(it is another kind of file: HEIC\)"):
            opened(heif(brands), "image", formats=("PNG", "JPEG", "WEBP", "AVIF"))


@pytest.mark.skipif(importlib.util.find_spec("pillow_heif") is None, reason="the extra heic is not installed")
def test_damaged_heic_is_one_sentence() -> None:
    opening.heic()
    whole = encoded(Image.new("RGB", (64, 64), "red"), "HEIF")
    for content in (whole[: len(whole) // 2], whole[:40], heif(b"heic\0\0\0\0heic")):
        with pytest.raises(ValueError, match="the image cannot be read"):
            opened(content, "image")
        with pytest.raises(OSError, match="not a picture that can be read"):
            decode(content)


def test_a_tiff_of_several_pages_is_no_animation() -> None:
    pages = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    content = encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    with pytest.raises(ValueError, match="the image has 3 pages: save the one that you mean as a file of its own"):
        opened(content, "image")
    assert decode(content).getpixel((0, 0)) == (255, 0, 0)


def test_smaller_copies_in_a_tiff_are_no_pages() -> None:
    small = Image.new("RGB", (4, 4), "red")
    small.encoderinfo = {"tiffinfo": {254: 1}}
    content = encoded(Image.new("RGB", (8, 8), "blue"), "TIFF", save_all=True, append_images=[small])
    picture = opened(content, "image")
    assert (picture.size, picture.convert("RGB").getpixel((0, 0))) == ((8, 8), (0, 0, 255))


def test_a_phones_second_view_is_no_page() -> None:
    content = encoded(Image.new("RGB", (8, 8), "red"), "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    assert opened(content, "image").size == (8, 8)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"%PDF-1.7", "another kind of file: PDF"),
        (b"<html>", "another kind of file"),
        (b"II*\0" + bytes(60), "damaged, or a kind of TIFF that is not known here: save it with 8 bits a channel"),
    ],
)
def test_what_a_file_is_instead_is_said(content: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        opened(content, "image")


def test_lab_is_shown_as_it_looks() -> None:
    content = encoded(Image.fromarray(RAMP).convert("RGB").convert("LAB"), "TIFF")
    assert np.abs(np.asarray(as_rgb(opened(content, "image"))).astype(int) - RAMP[..., None]).max() <= 2


@pytest.fixture
def odd(tmp_path: Path) -> Iterator[dict[str, Path]]:
    """What has a file's name and is none, by the reason that is given; root could read none of them either."""
    made = {
        "a link to nowhere.png, which is not there": tmp_path / "dangling",
        "a link that leads back to itself": tmp_path / "loop",
        "a pipe and no file": tmp_path / "pipe",
        "a socket and no file": tmp_path / "socket",
        "a folder and no file": tmp_path / "folder",
        "a device and no file": tmp_path / "device",
    }
    (tmp_path / "dangling").symlink_to("nowhere.png")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "device").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server, tempfile.TemporaryDirectory() as short:  # a socket's path is short
        server.bind(f"{short}/s")
        (tmp_path / "socket").symlink_to(f"{short}/s")
        yield made


def test_what_is_no_file_is_said_and_waits_for_nobody(odd: dict[str, Path]) -> None:
    for reason, path in odd.items():
        with pytest.raises(OSError, match=f"it is {reason}$"):
            files.content(path)
        with pytest.raises(OSError, match=f"image={path} cannot be read: it is {reason}$"):
            opened(path, "image")


def test_nothing_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"image=.*/me\.png does not exist: name a PNG/JPEG/WEBP file"):
        opened(tmp_path / "me.png", "image")


def test_a_turned_photo_is_set_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    content = encoded(picture(30, 20), "JPEG", exif=exif)
    assert opened(content, "image").size == (20, 30)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "I;16", "1"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    grey = Image.new("L", (8, 8), 200)
    if mode == "I;16":
        picture = Image.fromarray(np.full((8, 8), 200 * 257, dtype=np.uint16))
    elif mode == "LA":
        picture = grey.convert("LA")
    else:
        picture = grey.convert("RGB").convert(mode)
    pixel = as_rgb(picture).getpixel((3, 3))
    assert isinstance(pixel, tuple)
    assert max(abs(value - (255 if mode == "1" else 200)) for value in pixel) <= 60 if mode in ("P", "1") else 2
    assert as_rgb(picture).mode == "RGB"


@pytest.mark.parametrize("content", [b"", b"<html>", encoded(picture(64, 64), "PNG")[:300]])
def test_what_is_no_picture_is_said(content: bytes) -> None:
    with pytest.raises(ValueError, match="the image cannot be read"):
        opened(content, "image")


def test_bombs_and_animations_are_refused_before_they_are_decoded() -> None:
    with pytest.raises(ValueError, match="megapixels"):
        opened(encoded(Image.new("1", (9000, 9000)), "PNG"), "image")
    frames = [picture(8, 8).rotate(angle) for angle in (0, 90, 180)]
    with pytest.raises(ValueError, match="animated"):
        opened(encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True), "image")
