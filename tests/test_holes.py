"""Masks as people save them: whichever way a hole is drawn, it is the same hole, or a sentence says what was seen."""

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from diffusion_lab.data.celeba import CelebA, built_in_faces
from diffusion_lab.holes import Ambiguous, as_mask
from diffusion_lab.opening import opened

Coverage = NDArray[np.float64]
"""How much of each pixel is hole, 0 to 1."""


def strokes(side: int = 96) -> Coverage:
    """An ellipse and a thick line, with soft edges as a brush leaves them."""
    large = Image.new("L", (8 * side, 6 * side))
    draw = ImageDraw.Draw(large)
    draw.ellipse((side, side, 4 * side, 3 * side), fill=255)
    draw.line((2 * side, 5 * side, 7 * side, 4 * side), fill=255, width=side // 2)
    return np.asarray(large.resize((2 * side, side * 3 // 2), Image.Resampling.BOX)) / 255


def mixed(hole: tuple[int, ...], known: tuple[int, ...]) -> Callable[[Coverage], Image.Image]:
    def draw(coverage: Coverage) -> Image.Image:
        part = coverage[..., None]
        return Image.fromarray(
            (np.array(hole) * part + np.array(known) * (1 - part)).round().astype(np.uint8).squeeze()
        )

    return draw


def painted(colour: tuple[int, int, int], opacity: float = 1.0) -> Callable[[Coverage], Image.Image]:
    """Strokes of a colour on a transparent layer."""

    def draw(coverage: Coverage) -> Image.Image:
        picture = Image.new("RGBA", coverage.shape[::-1], colour)
        picture.putalpha(Image.fromarray((255 * opacity * coverage).round().astype(np.uint8)))
        return picture

    return draw


def paletted(coverage: Coverage) -> Image.Image:
    picture = Image.fromarray((coverage > 0.5).astype(np.uint8), "P")
    picture.putpalette([0, 0, 0, 128, 0, 0])
    return picture


def clear_palette(coverage: Coverage) -> Image.Image:
    """White in a palette whose other entry is transparent."""
    picture = Image.fromarray((coverage > 0.5).astype(np.uint8), "P")
    picture.putpalette([255, 255, 255, 255, 255, 255])
    picture.info["transparency"] = 0
    return picture


def labels(dtype: type[np.generic], high: float, low: float = 0) -> Callable[[Coverage], Image.Image]:
    return lambda coverage: Image.fromarray(np.where(coverage > 0.5, high, low).astype(dtype))


SOFT: dict[str, Callable[[Coverage], Image.Image]] = {
    "white on black": mixed((255,), (0,)),
    "white on black in RGB": mixed((255, 255, 255), (0, 0, 0)),
    "red on black": mixed((255, 0, 0), (0, 0, 0)),
    "dark blue on black": mixed((0, 0, 139), (0, 0, 0)),
    "green on black with an opaque alpha": lambda c: mixed((30, 200, 60), (0, 0, 0))(c).convert("RGBA"),
    "white on grey": mixed((255,), (128,)),
    "white on transparency": painted((255, 255, 255)),
    "red on transparency": painted((255, 0, 0)),
    "grey and alpha": lambda c: painted((255, 255, 255))(c).convert("LA"),
    "a brush of half opacity": painted((255, 255, 255), 0.5),
    "16 bits": lambda c: Image.fromarray((65535 * c).round().astype(np.uint16)),
    "floats to 1": lambda c: Image.fromarray(c.astype(np.float32)),
    "floats to 255": lambda c: Image.fromarray((255 * c).astype(np.float32)),
    "CMYK": lambda c: mixed((255, 255, 255), (0, 0, 0))(c).convert("CMYK"),
}
HARD: dict[str, Callable[[Coverage], Image.Image]] = {
    "one bit": lambda c: Image.fromarray(c > 0.5),
    "0 and 1": labels(np.uint8, 1),
    "0 and 128": labels(np.uint8, 128),
    "7 and 9": labels(np.uint8, 9, 7),
    "0 and 1 of 16 bits": labels(np.uint16, 1),
    "0 and 1 of 32 bits": labels(np.int32, 1),
    "0 and 100,000": labels(np.int32, 100_000),
    "0 and 7 in floats": labels(np.float32, 7),
    "-1 and 1": labels(np.float32, 1, -1),
    "a palette": paletted,
    "a palette with a transparent entry": clear_palette,
}


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 24), st.integers(3, 24), st.data())
def test_the_same_hole_in_every_way(width: int, height: int, data: st.DataObject) -> None:
    """A box, and on one side of it an edge of any softness."""
    left, top = data.draw(st.integers(0, width - 2)), data.draw(st.integers(0, height - 2))
    right, bottom = data.draw(st.integers(left + 1, width - 1)), data.draw(st.integers(top + 1, height - 1))
    coverage = np.zeros((height, width))
    coverage[top:bottom, left:right] = 1
    coverage[top:bottom, right] = data.draw(st.sampled_from([0.0, 0.2, 0.45, 0.55, 0.8]))
    truth = torch.from_numpy(coverage > 0.5)[None]
    for name, draw in (SOFT | HARD).items():
        assert torch.equal(as_mask(draw(coverage)), truth), name
    clear = painted((90, 120, 40))(1 - coverage)
    assert torch.equal(as_mask(clear, "transparent"), truth)


KINDS = {"a palette": ["GIF", "TIFF", "BMP"], "one bit": ["TIFF", "BMP", "GIF"], "0 and 1": ["TIFF", "BMP", "GIF"]}
KINDS |= {"a palette with a transparent entry": ["GIF"]}  # which a TIFF cannot say


@pytest.mark.parametrize("name", [*SOFT, *HARD])
def test_a_brush_is_read_from_its_file_and_cut_at_the_middle(name: str) -> None:
    coverage = strokes()
    picture, truth = (SOFT | HARD)[name](coverage), coverage > 0.5
    deep = picture.mode in ("I", "F", "CMYK")
    kinds = ["TIFF"] if deep else ["PNG", *KINDS.get(name, ["TIFF"])]
    for kind in kinds:
        stream = io.BytesIO()
        picture.save(stream, kind)
        read = as_mask(opened(stream.getvalue(), "mask"))[0].numpy()
        # Colours of 8 bits at the middle may round to either side of it.
        assert (read == truth)[np.abs(coverage - 0.5) > 0.01].all(), kind


@pytest.mark.parametrize("quality", [30, 75, 95])
@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF"])
@pytest.mark.parametrize("name", ["white on black", "red on black", "lime", "yellow", "white on transparency"])
def test_a_lossy_file_is_the_same_hole_but_for_its_edge(name: str, kind: str, quality: int) -> None:
    more = {"lime": mixed((0, 255, 0), (0, 0, 0)), "yellow": mixed((255, 255, 0), (0, 0, 0))}
    if kind == "JPEG" and name == "white on transparency":
        return
    coverage = strokes()
    stream = io.BytesIO()
    (SOFT | more)[name](coverage).save(stream, kind, quality=quality)
    read = as_mask(opened(stream.getvalue(), "mask"))[0].numpy()
    within = Image.fromarray(coverage > 0.5).convert("L")
    inner, outer = (np.asarray(within.filter(f)) > 0 for f in (ImageFilter.MinFilter(5), ImageFilter.MaxFilter(5)))
    assert read[inner].all()
    assert not read[~outer].any()


@pytest.mark.parametrize("radius", [1, 3, 10])
def test_a_blurred_mask_is_cut_at_the_middle(radius: int) -> None:
    soft = mixed((255,), (0,))(strokes()).filter(ImageFilter.GaussianBlur(radius))
    assert (as_mask(soft)[0].numpy() == (np.asarray(soft) > np.mean(soft.getextrema()))).all()


def face(mode: str) -> Image.Image:
    source = CelebA(built_in_faces())
    return Image.open(io.BytesIO(source.read(source.names("test")[0]))).convert(mode)


def erased(coverage: Coverage) -> Image.Image:
    photo = face("RGB").resize(coverage.shape[::-1]).convert("RGBA")
    photo.putalpha(mixed((0,), (255,))(coverage))
    return photo


def classes(*values: int) -> Callable[[Coverage], Image.Image]:
    """A label map of several classes."""

    def draw(coverage: Coverage) -> Image.Image:
        found = np.full(coverage.shape, values[0], np.uint8)
        for column, value in enumerate(values[1:]):
            found[10:60, 20 + 30 * column : 45 + 30 * column] = value
        return Image.fromarray(found)

    return draw


def two_colours(coverage: Coverage) -> Image.Image:
    picture = np.zeros((*coverage.shape, 3), np.uint8)
    picture[10:60, 20:80, 0] = picture[70:120, 20:80, 2] = 255
    return Image.fromarray(picture)


@pytest.mark.parametrize(
    ("draw", "seen"),
    [
        (classes(0, 1, 2), r"it is L and holds 0 \(.* %\), 1 \(4\.52 %\), 2 \(4\.52 %\); say mask_mode=white"),
        (classes(0, 128, 255), r"it is L and holds 0 \(.* %\), 128 \(4\.52 %\), 255 \(4\.52 %\)"),
        (classes(0, 50, 100, 150, 200), r"0 \(.* 50 \(4\.52 %\), 100 .*, 150 .* and 1 other values"),
        (two_colours, r"it is RGB and holds #000000 \(.* %\), #0000ff \(.* %\), #ff0000 \(.* %\)|#ff0000 .*#0000ff"),
        (mixed((255, 0, 0), (255, 255, 255)), r"it is RGB and holds #ffffff .*, #ff0000"),
        (mixed((255, 0, 0), (0, 0, 255)), r"it is RGB and holds #0000ff .*, #ff0000"),
        (painted((0, 0, 0)), r"it is RGBA and holds transparent \(.* %\), #000000 .*or mask_mode=transparent if"),
        (erased, r"it is RGBA and holds .*transparent \(.* %\).*or mask_mode=transparent if"),
        (lambda _: face("RGB"), r"it is RGB and holds #.* other values; say mask_mode=white .*, or mask_mode=nonzero"),
        (lambda _: face("L"), "it is L and holds"),
        (
            lambda c: Image.fromarray(np.random.default_rng(0).integers(0, 4, c.shape, np.uint8)),
            r"\d \(2\d\.. %\), \d .*\d .*\d ",
        ),
    ],
    ids=[
        "classes",
        "trimap",
        "grey classes",
        "two colours",
        "red on white",
        "red on blue",
        "black on transparency",
        "an erased photo",
        "a photo",
        "a grey photo",
        "noise",
    ],
)
def test_what_can_be_read_in_two_ways_is_said(draw: Callable[[Coverage], Image.Image], seen: str) -> None:
    with pytest.raises(Ambiguous, match=f"^the mask can be read in more than one way: .*{seen}"):
        as_mask(draw(strokes()))


def test_each_word_means_one_thing() -> None:
    """One row: black, grey, white, red, transparent white, half transparent white."""
    row = [(0, 0, 0, 255), (128, 128, 128, 255), (255, 255, 255, 255), (255, 0, 0, 255), (255, 255, 255, 0)]
    picture = Image.fromarray(np.array([[*row, (255, 255, 255, 100)]], np.uint8))
    opaque = picture.convert("RGB")
    assert as_mask(picture, "white").tolist() == [[[False, True, True, False, False, False]]]
    assert as_mask(picture, "transparent").tolist() == [[[False, False, False, False, True, True]]]
    assert as_mask(picture, "nonzero").tolist() == [[[True, True, True, True, False, True]]]
    assert as_mask(opaque, "white").tolist() == [[[False, True, True, False, True, True]]]
    assert as_mask(opaque, "nonzero").tolist() == [[[False, True, True, True, True, True]]]
    assert as_mask(classes(0, 1, 2)(strokes()), "nonzero").float().mean() == pytest.approx(2 * 1250 / (192 * 144))
    with pytest.raises(ValueError, match=r"the mask \(RGB\) has no transparency"):
        as_mask(opaque, "transparent")
    with pytest.raises(ValueError, match="mask_mode=black is none of white, transparent, nonzero"):
        as_mask(opaque, "black")  # type: ignore[arg-type]


def test_what_shows_nothing() -> None:
    for value, hole in ((0, False), (255, True), (1, False)):
        assert bool(as_mask(Image.new("L", (5, 4), value)).all()) == hole
        assert bool(as_mask(Image.new("RGB", (5, 4), (value,) * 3)).any()) == hole
    with pytest.raises(ValueError, match=r"the mask \(RGBA\) is transparent all over"):
        as_mask(Image.new("RGBA", (5, 4), (255, 255, 255, 0)))
    with pytest.raises(ValueError, match=r"the mask \(F\) holds values that are no numbers"):
        as_mask(Image.fromarray(np.array([[0, np.nan]], np.float32)))


def test_one_pixel_is_a_hole() -> None:
    picture = Image.new("RGB", (500, 400))
    picture.putpixel((499, 0), (255, 0, 0))
    assert as_mask(picture).nonzero().tolist() == [[0, 0, 499]]
