"""A frame and its inverse, and what is cut and laid back through it."""

import math
import tracemalloc
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from diffusion_lab.frames import Frame

FRAMES = st.builds(
    Frame, st.floats(-50, 50), st.floats(-50, 50), st.floats(1, 200), st.floats(-math.pi, math.pi, exclude_min=True)
)
POINT = st.tuples(st.floats(-300, 300), st.floats(-300, 300))


def smooth(size: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(size / 24)))


@given(FRAMES, st.lists(POINT, min_size=1, max_size=5))
def test_outside_is_the_inverse_of_inside(frame: Frame, points: list[tuple[float, float]]) -> None:
    np.testing.assert_allclose(frame.outside(frame.inside(np.array(points))), points, atol=1e-8)


@given(FRAMES, st.tuples(POINT, POINT).filter(lambda pair: math.dist(*pair) > 1))
def test_eyes_say_all_of_a_frame(frame: Frame, expected: tuple[tuple[float, float], tuple[float, float]]) -> None:
    """Wherever a model expects them: the frame that puts them there is found from where it puts them."""
    fractions = np.array(expected) / 300
    found = Frame.of_eyes(frame.outside(fractions), fractions)
    assert (found.x, found.y, found.side) == pytest.approx((frame.x, frame.y, frame.side), abs=1e-5)
    assert math.cos(found.angle - frame.angle) == pytest.approx(1)


@given(FRAMES, st.lists(POINT, max_size=5))
def test_a_frame_grows_no_more_than_it_must(frame: Frame, points: list[tuple[float, float]]) -> None:
    held = frame.holding(np.array(points).reshape(-1, 2))
    corners = frame.outside(np.array([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0]]))
    everything = np.concatenate([np.array(points).reshape(-1, 2), corners])
    within = held.inside(everything)
    assert within.min() >= -1e-6
    assert within.max() <= 1 + 1e-6
    assert np.ptp(within, axis=0).max() == pytest.approx(1)  # so that it cannot be smaller
    assert held.angle == frame.angle
    if not points:
        assert (held.x, held.y, held.side) == pytest.approx((frame.x, frame.y, frame.side), abs=1e-6)


@pytest.mark.parametrize("angle", [0.0, 0.7])
def test_a_frame_that_grows_to_one_side_stays_in_the_middle_of_the_other(angle: float) -> None:
    """From 10 to 15 to the right: 2.5 of them above, and 2.5 below."""
    frame = Frame(3.0, 4.0, 10.0, angle)
    held = frame.holding(frame.outside(np.array([[1.5, 0.5]])))
    middle = frame.outside(np.array([[0.75, 0.5]]))[0]
    assert (held.x, held.y, held.side) == pytest.approx((*middle, 15.0))


def test_an_upright_frame_of_the_same_size_is_a_slice() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    frame = Frame(30.0, 20.0, 16.0)
    assert np.array_equal(frame.cut(pixels, 16), pixels[12:28, 22:38])
    assert np.array_equal(frame.spread(pixels[12:28, 22:38]).part(24, 13, 30, 20), pixels[13:20, 24:30])
    assert np.array_equal(frame.spread(pixels[12:28, 22:38]).part(22, 12, 38, 28), pixels[12:28, 22:38])
    beyond = Frame(0.0, 0.0, 4.0).cut(pixels, 4)
    assert np.array_equal(beyond, np.pad(pixels[:2, :2], ((2, 0), (2, 0), (0, 0)), mode="edge"))


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_quarter_turn_is_a_quarter_turn(turns: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    cut = Frame(16.0, 16.0, 32.0, turns * math.pi / 2).cut(pixels, 32)
    assert (
        np.abs(cut.astype(int) - np.rot90(pixels, turns)).max() <= 1
    )  # clockwise in the picture: we see it turned back


@pytest.mark.parametrize("side", [40.0, 97.3, 300.0])
@pytest.mark.parametrize("angle", [-0.5, 0.0, 0.3, 2.0])
def test_there_and_back_is_where_it_was(side: float, angle: float) -> None:
    """A smooth picture through a square of 64, smaller and larger than it: to within a few levels of 255."""
    pixels = smooth(400)
    frame = Frame(203.4, 188.1, side, angle)
    back = frame.spread(frame.cut(pixels, 64)).part(*(box := (190, 180, 210, 200)))
    left, top, right, bottom = box
    assert np.abs(back.astype(int) - pixels[top:bottom, left:right]).mean() < 1.5


def test_parts_are_parts_of_the_whole() -> None:
    spread = Frame(50.0, 60.0, 77.7, 0.4).spread(smooth(32))
    whole = spread.part(30, 40, 70, 80)
    apart = np.abs(whole[10:25].astype(int) - spread.part(30, 50, 70, 65))
    assert apart.max() <= 1  # Pillow keeps the edges of a part as single floats


def test_an_upright_hole_of_the_same_size_is_a_slice() -> None:
    """Whatever lies next to it; beyond the edges theirs is repeated, as of the pixels."""
    mask = np.random.default_rng(0).random((40, 50)) < 0.5
    assert np.array_equal(Frame(30.0, 20.0, 16.0).cut_hole(mask, 16), mask[12:28, 22:38])
    assert np.array_equal(Frame(0.0, 0.0, 8.0).cut_hole(mask, 8), np.pad(mask[:4, :4], ((4, 0), (4, 0)), mode="edge"))
    assert np.array_equal(
        Frame(50.0, 40.0, 8.0).cut_hole(mask, 8), np.pad(mask[-4:, -4:], ((0, 4), (0, 4)), mode="edge")
    )


@given(st.floats(-math.pi, math.pi), st.floats(30, 120))
@settings(max_examples=30, deadline=None)
def test_a_turned_square_is_whole_to_its_corners(angle: float, side: float) -> None:
    """Of two ramps: each pixel is the place that it was taken from."""
    y, x = np.mgrid[:256, :256].astype(np.uint8)
    frame = Frame(126.0, 131.0, side, angle)
    middles = (np.stack(np.meshgrid(np.arange(32), np.arange(32)), axis=-1) + 0.5) / 32
    places = frame.outside(middles.reshape(-1, 2)).reshape(32, 32, 2) - 0.5
    cut = frame.cut(np.stack([x, y, x], axis=-1), 32)
    assert np.abs(cut[..., :2] - places).max() < 1.5


@given(FRAMES, st.floats(0.1, 10), st.lists(POINT, min_size=1, max_size=3))
def test_a_larger_picture_has_a_larger_frame(frame: Frame, scale: float, points: list[tuple[float, float]]) -> None:
    places = np.array(points) / 300
    np.testing.assert_allclose(frame.scaled(scale).outside(places), scale * frame.outside(places), atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.floats(-1, 1), st.floats(5, 80), st.integers(0, 39), st.integers(0, 39))
def test_a_single_pixel_of_a_hole_is_seen(angle: float, side: float, x: int, y: int) -> None:
    mask = np.zeros((40, 40), np.bool_)
    mask[y, x] = True
    frame = Frame(20.0, 20.0, side, angle)
    place = frame.inside(np.array([[x + 0.5, y + 0.5]]))[0]
    hole = frame.cut_hole(mask, 16)
    if ((place >= 0) & (place < 1)).all():
        column, row = (place * 16).astype(int)
        assert hole[row, column]


@given(st.floats(-1, 1), st.floats(20, 80))
@settings(max_examples=30, deadline=None)
def test_what_a_hole_has_not_touched_is_known(angle: float, side: float) -> None:
    """A straight edge: two pixels of the square beyond it, nothing is a hole."""
    mask = np.zeros((100, 100), np.bool_)
    mask[:, 50:] = True
    frame = Frame(50.0, 50.0, side, angle)
    middles = (np.stack(np.meshgrid(np.arange(16), np.arange(16)), axis=-1).reshape(-1, 2) + 0.5) / 16
    x = frame.outside(middles)[:, 0]
    hole = frame.cut_hole(mask, 16).ravel()
    slack = 2.5 * side / 16 + 1
    assert hole[x >= 50].all()
    assert not hole[x < 50 - slack].any()


@given(
    st.builds(Frame, st.floats(-60, 60), st.floats(-60, 60), st.floats(3, 200), st.sampled_from([0.0, 0.4, -2.0])),
    st.integers(1, 30),
    st.integers(1, 30),
    st.sampled_from([2, 7, 256]),
)
@settings(deadline=None)
def test_beyond_the_edges_their_pixels_are_repeated(frame: Frame, width: int, height: int, strip: int) -> None:
    """As in a picture that was made larger by them, bit for bit, in strips of any height."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    padded = np.pad(pixels, ((400, 400), (400, 400), (0, 0)), mode="edge")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffusion_lab.frames.STRIP", strip)
        cut = frame.cut(pixels, 16)
    moved = Frame(frame.x + 400, frame.y + 400, frame.side, frame.angle).cut(padded, 16)
    assert np.abs(cut.astype(int) - moved).max() <= 1  # its place is rounded elsewhere


def test_a_square_far_beyond_a_picture_takes_no_more_memory_than_the_picture() -> None:
    """Eyes that a person points at may be far apart: it is not laid out with all that is repeated."""
    pixels = np.zeros((1000, 1000, 3), np.uint8)
    tracemalloc.start()
    try:
        Frame(500.0, 500.0, 20_000.0, 0.3).cut(pixels, 64)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100e6  # as a whole it would be 1.2 GB


@pytest.mark.parametrize("size", [16, 17, 64])
@pytest.mark.parametrize("angle", [0.0, 0.01, 0.5, 1.0, math.pi / 2, -2.5])
def test_the_upright_square_around_a_turned_one_is_as_small_as_can_be(size: int, angle: float) -> None:
    """A turned square is |cos| + |sin| times as wide; an even number of pixels more, so that their middles meet."""
    found = Frame(30.0, 30.0, 20.0, angle).spread(np.zeros((size, size, 3), np.uint8)).square.width
    needed = size * (abs(math.cos(angle)) + abs(math.sin(angle)))
    assert found == next(wide for wide in range(size, 3 * size, 2) if wide >= needed - 1e-6)


def test_a_frame_turned_by_just_a_radian_is_turned() -> None:
    """As by nearly a radian: and of the size that was asked for."""
    pixels = smooth(64)
    cut, nearly = (Frame(32.0, 32.0, 40.0, angle).cut(pixels, 24).astype(int) for angle in (1.0, 1.0 + 1e-9))
    assert cut.shape == (24, 24, 3)
    assert np.abs(cut - nearly).max() <= 1


def test_a_turned_hole_grows_by_a_pixel_and_a_turned_picture_keeps_its_stripes() -> None:
    """Between a hole's pixels lines are drawn, which do not ring; between a picture's colours they would blur it."""
    mask = np.zeros((64, 64), np.bool_)
    mask[:, 32:] = True
    frame = Frame(32.0, 32.0, 40.0, 0.3)
    middles = (np.stack(np.meshgrid(np.arange(40), np.arange(40)), axis=-1).reshape(-1, 2) + 0.5) - 20
    x = middles @ [math.cos(0.3), -math.sin(0.3)]
    assert not frame.cut_hole(mask, 40).ravel()[x < -1.5].any()
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::3] = 240
    assert frame.cut(stripes, 40)[10:30, 10:30].astype(float).std() > 90  # of 113; lines between them leave 80


def test_a_mask_has_two_sides() -> None:
    with pytest.raises(ValueError, match="zip"):
        Frame(8.0, 8.0, 8.0).cut_hole(np.ones((1, 16, 16), np.bool_), 8)


def test_frames_and_what_lies_over_a_picture_do_not_change() -> None:
    frame = Frame(8.0, 8.0, 8.0)
    spread = frame.spread(np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(FrozenInstanceError):
        frame.x = 1.0  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        spread.left = 1.0  # type: ignore[misc]
