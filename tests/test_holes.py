"""Masks as people save them: whichever way a hole is drawn, it is the same hole, or a sentence says what was seen."""

import io
from collections.abc import Callable
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from diffusion_lab.data.celeba import CelebA, built_in_faces
from diffusion_lab.holes import Ambiguous, Seen, as_mask
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


def pixels(*runs: tuple[int, object], mode: str = "L", width: int = 20) -> Image.Image:
    """A picture of so many pixels of each value, in rows of 20, one after the other."""
    values = [value for count, value in runs for _ in range(count)]
    picture = Image.new(mode, (width, len(values) // width))
    picture.putdata(values)
    return picture


def refused(picture: Image.Image) -> bool:
    try:
        as_mask(picture)
    except Ambiguous:
        return True
    return False


def stripes(*columns: object, mode: str = "L", times: int = 20, rows: int = 4) -> Image.Image:
    """Columns of one pixel, which are nowhere flat, over and over."""
    picture = Image.new(mode, (len(columns) * times, rows))
    picture.putdata([*columns] * (times * rows))
    return picture


def test_what_is_seen_is_said_to_the_percent() -> None:
    """Of 200 pixels a half a percent each; the four most frequent values, and how many are left."""
    rgb = [(count, (shade, 0, 255)) for count, shade in ((80, 1), (60, 2), (40, 3), (15, 16), (5, 171))]
    with pytest.raises(Ambiguous) as said:
        as_mask(pixels(*rgb, mode="RGB"))
    assert str(said.value) == (
        "the mask can be read in more than one way: it is RGB and holds #0100ff (40 %), #0200ff (30 %), "
        "#0300ff (20 %), #1000ff (7.5 %) and 1 other values; say mask_mode=white if what is light is the hole, "
        "or mask_mode=nonzero if all is that is not 0"
    )
    with pytest.raises(
        Ambiguous, match=r"holds #0100ff \(40 %\), #0200ff \(30 %\), #0300ff \(20 %\), #1000ff \(10 %\); say"
    ):
        as_mask(pixels(*rgb[:3], (20, (16, 0, 255)), mode="RGB"))
    clear = [(50, (9, 9, 9, 0)), (30, (0, 0, 0, 255)), (70, (255, 0, 0, 254)), (50, (0, 0, 255, 1))]
    with pytest.raises(Ambiguous) as said:
        as_mask(pixels(*clear, mode="RGBA"))
    assert str(said.value) == (
        "the mask can be read in more than one way: it is RGBA and holds transparent (25 %), #ff0000 with alpha 254 "
        "(35 %), #0000ff with alpha 1 (25 %), #000000 (15 %); say mask_mode=white if what is light is the hole, "
        "mask_mode=nonzero if all is that is not 0, or mask_mode=transparent if what is transparent is"
    )


def test_a_picture_of_more_than_65536_colours_is_a_photo() -> None:
    """A white brush of 256 levels of opacity and as many shades is none; with one shade more it is."""
    alpha, shade = np.mgrid[:256, :256]
    levels = np.stack([255 - shade % 16, 255 - shade // 16, np.full_like(shade, 255), alpha], axis=-1).astype(np.uint8)
    brush = np.concatenate([levels, np.repeat(levels[:1], 20, axis=0), np.repeat(levels[-1:], 20, axis=0)])
    assert np.array_equal(as_mask(Image.fromarray(brush))[0].numpy(), brush[..., 3] > 127)
    brush[0, 0, :3] = 0
    with pytest.raises(Ambiguous, match=r"it is RGBA and holds more than 65,536 colours, transparent \(7\.09 %\); say"):
        as_mask(Image.fromarray(brush))
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8))
    with pytest.raises(Ambiguous, match="it is RGB and holds more than 65,536 colours; say"):
        as_mask(photo)


def test_noise_near_black_or_white_is_no_value_of_its_own() -> None:
    """As far as an eighth of the way from one to the other, which is 31.875 levels."""
    for value in (31, 224):
        mask = as_mask(pixels((100, 0), (200, value), (100, 255)))
        assert int(mask.sum()) == 100 + 200 * (value > 127)
    for value in (32, 223):
        assert refused(pixels((100, 0), (200, value), (100, 255)))


def test_a_flat_area_between_black_and_white_may_be_a_hundredth() -> None:
    """A block's inner pixels are flat, those of its rim are not."""
    picture = Image.new("L", (100, 100))
    picture.paste(255, (50, 0, 100, 100))
    picture.paste(128, (10, 10, 22, 22))  # 10 times 10 of 10,000 are flat
    assert int(as_mask(picture).sum()) == 5000 + 144
    picture.paste(128, (10, 10, 23, 22))
    assert refused(picture)


def test_an_edge_may_be_soft_over_a_third_of_the_picture() -> None:
    """Unless it goes from black to white, which may fall as gently as it likes."""
    assert not refused(stripes(20, 137, 255))
    picture = stripes(20, 137, 255)
    picture.putpixel((0, 0), 137)
    assert refused(picture)
    assert not refused(stripes(20, 137, 255, 20, 137, 255, 20, 255))  # a quarter
    assert refused(stripes(20, 137, 255, 137, 20, 137, 255))  # three sevenths
    for low, high, read in ((8, 247, True), (9, 247, False), (8, 246, False), (9, 255, False), (0, 246, False)):
        assert refused(stripes(*range(low, high + 1), times=1)) != read


def test_soft_is_what_is_farther_than_an_eighth_from_both_ends() -> None:
    """From 64 to 192: 80 and 176 are just an eighth of the way from them. Half of the picture is."""
    for value, read in ((80, True), (81, False), (176, True), (175, False)):
        assert refused(stripes(64, value, 192, value)) != read


def test_three_numbers_close_together_are_labels() -> None:
    """Within less than 64, whatever their shares; two of them, and numbers that are not whole, are none."""
    for low, middle, high, read in ((0, 30, 63, False), (0, 30, 64, True), (200, 220, 255, False), (0, 0, 63, True)):
        assert refused(pixels((150, low), (1, middle), (49, high))) != read
    assert not refused(pixels((150, 0.0), (1, 30.5), (49, 63.0), mode="F"))
    assert refused(pixels((150, 0.0), (1, 30.0), (49, 63.0), mode="F"))


def test_one_pixel_of_two_hundred_may_have_another_colour() -> None:
    """The darkest red that differs by more than two fifths of the way from black to the hole's red."""
    black, red = (0, 0, 0), (150, 0, 0)
    assert int(as_mask(pixels((120, black), (79, red), (1, (0, 61, 0)), mode="RGB")).sum()) == 79
    assert refused(pixels((120, black), (78, red), (2, (0, 61, 0)), mode="RGB"))
    assert int(as_mask(pixels((120, black), (70, red), (10, (0, 60, 0)), mode="RGB")).sum()) == 70  # not more


def test_what_lies_beyond_the_hole_s_colour_is_measured_from_that() -> None:
    """To the right by .28 and up by .3 of the line is .41 away from its end; .3 of both ways alone are not too far."""
    black, red = (0, 0, 0), (150, 0, 0)
    assert refused(pixels((120, black), (70, red), (10, (192, 45, 0)), mode="RGB"))
    assert int(as_mask(pixels((120, black), (70, red), (10, (150, 45, 0)), mode="RGB")).sum()) == 80
    # From grey to white, too: red is 221 away from the grey, and the line 220 long.
    assert refused(pixels((120, (128,) * 3), (70, (255,) * 3), (10, (255, 0, 0)), mode="RGB"))


def test_a_hole_s_colour_is_the_most_frequent_of_those_far_away() -> None:
    """At least three quarters as far as the farthest, which may be an edge's noise; but of greys it is the lightest."""
    light = pixels((120, (0, 0, 0)), (60, (200, 0, 0)), (20, (230, 0, 0)), mode="RGB")
    assert int(as_mask(light).sum()) == 80  # a lighter red is as much of a hole
    far = [(99, (0, 0, 0)), (79, (150, 0, 0)), (1, (90, 0, 0)), (21, (200, 0, 0))]
    assert int(as_mask(pixels(*far, mode="RGB")).sum()) == 101  # of 150, 90 is more than a half
    soft = [(180, (0, 0, 0)), (8, (255, 0, 0)), (12, (100, 0, 0))]
    assert int(as_mask(pixels(*soft, mode="RGB")).sum()) == 8
    most = as_mask(pixels((10, (0, 0, 0)), (190, (255, 0, 0)), mode="RGB"))
    assert int(most.sum()) == 190
    greys = pixels((100, 0), (79, 230), (1, 120), (20, 255))
    assert int(as_mask(greys).sum()) == 99  # 120 is less than half of 255, though not of 230


def test_tinted_greys_are_greys_and_a_dark_colour_is_as_good_as_black() -> None:
    assert not refused(pixels((120, (128, 128, 128)), (80, (255, 255, 239)), mode="RGB"))
    assert refused(pixels((120, (128, 128, 128)), (80, (255, 255, 238)), mode="RGB"))
    assert not refused(pixels((120, (63, 0, 0)), (80, (0, 252, 0)), mode="RGB"))
    assert refused(pixels((120, (64, 0, 0)), (80, (0, 252, 0)), mode="RGB"))


def test_the_middle_between_two_values_is_not_the_hole() -> None:
    assert as_mask(Image.fromarray(np.array([[0, 0.5, 1]], np.float32))).tolist() == [[[False, False, True]]]
    assert as_mask(Image.fromarray(np.array([[0, 0.51, 1]], np.float32))).tolist() == [[[False, True, True]]]


def test_a_brush_has_one_colour() -> None:
    """That is what is more than half as opaque as the most: of its 20 pixels one may have another, 32 levels off."""
    white, clear = (255, 255, 255, 255), (0, 0, 0, 0)
    other = (255, 255, 222, 255)
    assert int(as_mask(pixels((12, clear), (20, white), mode="RGBA", width=4)).sum()) == 20
    assert int(as_mask(pixels((12, clear), (19, white), (1, other), mode="RGBA", width=4)).sum()) == 20
    assert refused(pixels((12, clear), (18, white), (2, other), mode="RGBA", width=4))
    assert not refused(pixels((12, clear), (10, white), (10, (255, 255, 223, 255)), mode="RGBA", width=4))
    for alpha, read in ((100, True), (127, True), (128, False)):  # from 0 to 254
        assert refused(stripes((9, 9, 9, 0), (255, 0, 0, 254), (0, 0, 255, alpha), mode="RGBA")) != read
    for shade, read in ((64, True), (63, False)):
        assert refused(pixels((12, (0, 0, 0, 0)), (20, (shade, 0, 0, 255)), mode="RGBA", width=4)) != read


def test_nearly_opaque_is_opaque() -> None:
    """From 247 on, as lossy files have it: then the colour says what is the hole."""
    black, white = (0, 0, 0, 255), (255, 255, 255, 255)
    assert int(as_mask(pixels((20, black), (19, white), (1, (255, 255, 255, 247)), mode="RGBA")).sum()) == 20
    assert refused(pixels((20, black), (19, white), (1, (255, 255, 255, 246)), mode="RGBA"))


def test_a_picture_of_one_value_is_all_hole_if_it_is_light() -> None:
    for picture, hole in (
        (Image.new("L", (5, 4), 127), False),
        (Image.new("L", (5, 4), 128), True),
        (Image.new("RGBA", (5, 4), (100, 100, 100, 255)), False),
    ):
        assert as_mask(picture).tolist() == [[[hole] * 5] * 4]


def test_words_at_their_limits() -> None:
    assert as_mask(pixels((1, 127), (1, 128), width=2), "white").tolist() == [[[False, True]]]
    alpha = pixels((1, (0, 0, 0, 127)), (1, (0, 0, 0, 128)), mode="RGBA", width=2)
    assert as_mask(alpha, "transparent").tolist() == [[[True, False]]]
    # Nothing is wholly transparent, so that black is what is known.
    faint = pixels((1, (0, 0, 0, 255)), (1, (255, 0, 0, 1)), mode="RGBA", width=2)
    assert as_mask(faint, "nonzero").tolist() == [[[False, True]]]
    deep = Image.fromarray(np.array([[0, 1, 65535]], np.uint16))
    assert as_mask(deep, "nonzero").tolist() == [[[False, True, True]]]
    assert as_mask(deep, "white").tolist() == [[[False, False, True]]]
    grey = Image.fromarray(np.array([[0, 30_000, 65535]], np.uint16))
    grey.info["transparency"] = 0  # as a PNG of 16 bits says that black is
    assert as_mask(grey, "white").tolist() == [[[False, False, True]]]


def test_what_was_seen_does_not_change() -> None:
    seen = Seen("L", None, np.ones(1, np.float32), None)
    with pytest.raises(FrozenInstanceError):
        seen.clear = 0.5  # type: ignore[misc]
