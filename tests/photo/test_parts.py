"""Which part of a hole belongs to which face, and the squares that they are filled in."""

import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_lab.data.crops import Crop, center148
from diffusion_lab.photo.parts import BAND, Part, aligned, divided, expected, square_around


def eyes(x: float, y: float, between: float, turn: float = 0.0) -> np.ndarray:
    """Of a face around (x, y), turned clockwise by radians."""
    half = between / 2 * np.array([math.cos(turn), math.sin(turn)])
    middle = np.array([x, y])
    return np.array([middle - half, middle + half])


def hole(width: int, height: int, *boxes: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((height, width), np.bool_)
    for left, top, right, bottom in boxes:
        mask[top:bottom, left:right] = True
    return mask


def shown(part: Part, shape: tuple[int, ...]) -> np.ndarray:
    """A part's own pixels in the picture."""
    mask = np.zeros(shape, np.bool_)
    height, width = part.mask.shape
    mask[part.top : part.top + height, part.left : part.left + width] = part.mask
    return mask


@given(st.integers(0, 10_000), st.sampled_from([1, 3]), st.integers(0, 2))
@settings(max_examples=60, deadline=None)
def test_parts_are_the_hole_and_each_lies_in_its_frame(seed: int, k: int, faces: int) -> None:
    """Pictures that are divided pixel by pixel, and by blocks of three; faces of any turn, or none."""
    rng = np.random.default_rng(seed)
    width, height = (1024 * k - int(rng.integers(0, k)), int(rng.integers(100, 400)))
    boxes = [(int(rng.integers(0, width - 90)), int(rng.integers(0, height - 90))) for _ in range(3)]
    mask = hole(width, height, *((x, y, x + int(rng.integers(1, 90)), y + int(rng.integers(1, 90))) for x, y in boxes))
    pairs = [
        eyes(rng.uniform(0, width), rng.uniform(0, height), rng.uniform(20, 90), rng.uniform(-1, 1))
        for _ in range(faces)
    ]
    parts = divided(mask, pairs, 16, center148())
    assert np.array_equal(np.any([shown(part, mask.shape) for part in parts], axis=0), mask)
    of_faces = [shown(part, mask.shape) for part in parts if part.eyes is not None]
    assert np.sum(of_faces, axis=0).max(initial=0) <= 1  # a pixel has one face
    for part in parts:
        ys, xs = part.mask.nonzero()
        corners = np.concatenate([np.column_stack([xs + dx, ys + dy]) for dx in (0, 1) for dy in (0, 1)])
        within = part.frame.inside(corners + np.array([part.left, part.top]))
        assert -1e-6 <= within.min() <= within.max() <= 1 + 1e-6
        edges = part.mask[0], part.mask[-1], part.mask[:, 0], part.mask[:, -1]
        assert all(edge.any() for edge in edges)  # its box is no larger than it


def test_a_pixel_of_a_picture_without_faces() -> None:
    """One part, in the crop's own square if that holds it."""
    (part,) = divided(hole(178, 218, (100, 120, 101, 121)), [], 16, center148())
    assert (part.left, part.top, part.mask.tolist(), part.eyes, part.fade) == (100, 120, [[True]], None, 0)
    left, top, right, bottom = center148().seen(178, 218)
    assert (part.frame.x, part.frame.y) == ((left + right) / 2, (top + bottom) / 2)
    assert part.frame.side == right - left


def test_the_largest_hole_outside_of_all_faces_has_the_first_square_and_takes_what_lies_in_it() -> None:
    mask = hole(900, 700, (300, 300, 310, 310), (500, 300, 540, 320), (545, 310, 550, 312), (800, 650, 820, 655))
    parts = divided(mask, [eyes(100, 100, 20)], 16, center148())
    assert [(part.left, part.top, *part.mask.shape[::-1]) for part in parts] == [
        (500, 300, 50, 20),
        (800, 650, 20, 5),
        (300, 300, 10, 10),
    ]


def test_each_connected_part_belongs_to_the_face_that_holds_most_of_it() -> None:
    pairs = [eyes(100, 100, 43), eyes(300, 100, 43)]  # squares of 148, from 26 and 226
    mask = hole(500, 200, (150, 90, 240, 110), (260, 60, 280, 80), (100, 100, 110, 110), (430, 150, 440, 160))
    parts = divided(mask, pairs, 16, center148())
    owned = {}
    for part in parts:
        ys, xs = part.mask.nonzero()
        name = None if part.eyes is None else int(part.eyes[:, 0].mean())
        owned[name] = {*zip((xs + part.left).tolist(), (ys + part.top).tolist(), strict=True)}
    assert set(owned) == {100, 300, None}
    assert {(150, 90), (173, 100), (105, 105)} <= owned[100]  # 23 of 90 columns against 14
    assert {(265, 65), (239, 109)} <= owned[300]  # the latter since it is too far from the other face
    assert (435, 155) in owned[None]


def test_an_aligned_square_grows_a_little_and_else_is_left_alone() -> None:
    pair = eyes(500, 500, 43)  # square from 426 to 574
    (inside,) = divided(hole(1000, 1000, (480, 490, 520, 510)), [pair], 16, center148())
    (beyond,) = divided(hole(1000, 1000, (480, 490, 580, 510)), [pair], 16, center148())
    assert inside.frame.side == pytest.approx(148)
    assert beyond.frame.side == pytest.approx(580 - 426)
    assert (inside.fade, beyond.fade) == (0, 0)
    *apart, aligned = divided(hole(1000, 1000, (10, 490, 990, 510)), [pair], 16, center148())
    assert aligned.frame.side == pytest.approx(148, abs=1)
    assert aligned.fade == BAND
    assert 1 <= len(apart) <= 4
    assert all(part.eyes is None and part.fade == 0 for part in apart)
    (just,) = divided(hole(1000, 1000, (430, 490, 581, 510)), [pair], 16, center148())  # 7 of 148 beyond
    *_, too_far = divided(hole(1000, 1000, (430, 490, 582, 510)), [pair], 16, center148())  # 8: over a twentieth
    assert (just.fade, too_far.fade) == (0, BAND)


@pytest.mark.parametrize(("x", "y"), [(1, 0), (-1, 0), (0, 1), (0, -1)])
def test_a_square_that_grows_ends_where_the_hole_does(x: int, y: int) -> None:
    """A box of 10 pixels that reaches five beyond a side of the aligned square."""
    face = eyes(500, 500, 43)
    frame = aligned(face, center148())
    assert frame is not None
    left, top = (round(middle + 74 * way) - 5 for middle, way in ((frame.x, x), (frame.y, y)))
    (part,) = divided(hole(1000, 1000, (left, top, left + 10, top + 10)), [face], 16, center148())
    ends = part.frame.inside(np.array([[left, top], [left + 10, top + 10]]))
    assert min(ends.min(), 1 - ends.max()) == pytest.approx(0, abs=1e-9)
    assert part.frame.side == pytest.approx(153, abs=0.6)


def test_what_a_face_holds_deep_inside_is_filled_by_it_alone() -> None:
    """Only over the band along the aligned square's border, and a little beyond it, is there a second filling."""
    face = eyes(500, 500, 43)  # its square from 426 to 574
    *apart, aligned = divided(hole(1000, 1000, (10, 490, 990, 510)), [face], 16, center148())
    seen = np.zeros((1000, 1000), np.bool_)
    for part in apart:
        height, width = part.mask.shape
        seen[part.top : part.top + height, part.left : part.left + width] |= part.mask
    twice = seen[500, aligned.left : aligned.left + aligned.mask.shape[1]].nonzero()[0] + aligned.left
    width = BAND * 148
    assert {426, 426 + int(width) - 1, 573, 573 - int(width) + 1} <= set(twice.tolist())
    assert not ((twice > 426 + width + 4) & (twice < 574 - width - 4)).any()


@pytest.mark.parametrize("turn", [0.0, 0.5])
def test_all_that_fades_is_filled_twice_in_a_large_picture_too(turn: float) -> None:
    """There holes are divided by blocks of pixels, and the band ends within one: what lay there must not show."""
    mask = hole(4000, 800, (40, 380, 3960, 420))
    for x in np.linspace(2000, 2004, 41):
        *apart, aligned = divided(mask, [eyes(x, 400, 172, turn)], 16, center148())
        seen = np.zeros_like(mask)
        for part in apart:
            height, width = part.mask.shape
            seen[part.top : part.top + height, part.left : part.left + width] |= part.mask
        ys, xs = aligned.mask.nonzero() + np.array([[aligned.top], [aligned.left]])
        within = aligned.frame.inside(np.column_stack([xs, ys]) + 0.5)
        fades = np.minimum(within, 1 - within).min(1) < aligned.fade
        assert fades.any()
        assert seen[ys[fades], xs[fades]].all()


def test_a_square_of_its_own_is_around_its_hole_and_within_the_picture_if_it_can_be() -> None:
    """So many times as wide as the hole; one that is wider than the picture is high looks as far up as down."""
    face = eyes(100, 100, 20)
    for box, middle, side in (
        ((500, 300, 540, 320), (520, 310), 40 * 2.5),
        ((600, 300, 602, 302), (601, 301), 16),  # never smaller than the model's
        ((860, 660, 900, 690), (850, 650), 40 * 2.5),  # moved from the corner
    ):
        (part,) = divided(hole(900, 700, box), [face], 16, center148())
        assert (part.frame.x, part.frame.y, part.frame.side) == (*middle, side)
    (wide,) = divided(hole(900, 200, (300, 150, 900, 160)), [eyes(50, 50, 10)], 16, center148())
    assert (wide.frame.x, wide.frame.y, wide.frame.side) == (600, 100, 600)


def test_many_specks_outside_are_few_squares() -> None:
    mask = np.random.default_rng(0).random((700, 900)) < 0.001
    mask[:] &= np.arange(900) > 300
    parts = divided(mask, [eyes(100, 100, 20)], 16, center148())
    assert all(part.eyes is None for part in parts)
    assert len(parts) == 4
    assert sum(int(part.mask.sum()) for part in parts) == int(mask.sum())


def test_the_square_stays_where_it_holds_the_hole() -> None:
    mask = hole(60, 100, (10, 40, 20, 50))
    square = square_around(mask, (0, 20, 60, 80))
    assert (square.x, square.y, square.side, square.angle) == (30, 50, 60, 0)
    mask[95:100] = True
    moved = square_around(mask, (0, 20, 60, 80))
    assert (moved.x, moved.y, moved.side) == (30, 70, 60)


@given(st.integers(1, 60), st.integers(1, 60), st.data())
def test_the_square_holds_the_hole_and_is_no_larger_than_it_must_be(
    width: int, height: int, data: st.DataObject
) -> None:
    """A hole of any shape, and any preferred square within the picture."""
    mask = np.zeros((height, width), np.bool_)
    for _ in range(data.draw(st.integers(1, 3))):
        top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
        mask[top : data.draw(st.integers(top + 1, height)), left : data.draw(st.integers(left + 1, width))] = True
    wanted = data.draw(st.integers(1, min(width, height)))
    x, y = data.draw(st.integers(0, width - wanted)), data.draw(st.integers(0, height - wanted))
    square = square_around(mask, (x, y, x + wanted, y + wanted))
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert square.side == max(wanted, rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1)
    for start, length, found, preferred in (
        (square.x - square.side / 2, width, columns, x),
        (square.y - square.side / 2, height, rows, y),
    ):
        assert start == int(start)
        assert start <= found[0]
        assert found[-1] < start + square.side
        if square.side <= length:
            assert 0 <= start <= length - square.side  # nothing beyond the picture is shown
        if square.side == wanted and preferred <= found[0] and found[-1] < preferred + wanted:
            assert start == preferred


def test_in_pictures_of_more_than_1024_pixels_two_make_one() -> None:
    """From 560 to 580, which the face's square grows to hold, and from 581 on, which it does not: one hole or two."""
    for width, fade in ((1024, 0.0), (1025, BAND)):
        mask = hole(width, 1000, (560, 490, 580, 510), (581, 490, 600, 510))
        *_, face = divided(mask, [eyes(500, 500, 43)], 16, center148())
        assert face.eyes is not None
        assert face.fade == fade


@pytest.mark.parametrize("shift", [0.0, 0.2, 0.4, 0.6, 0.8])
def test_two_pixels_beyond_the_band_are_filled_twice(shift: float) -> None:
    """Those whose middles are no farther from the square's border, which is at 426 and 574 or a little to the right."""
    *apart, face = divided(hole(1000, 1000, (10, 490, 990, 510)), [eyes(500 + shift, 500, 43)], 16, center148())
    seen = np.any([shown(part, (1000, 1000)) for part in apart], axis=0)
    twice = (seen & shown(face, (1000, 1000)))[500].nonzero()[0] + 0.5
    assert face.fade == 0.1
    depth = 74 - np.abs(np.arange(426, 575) + 0.5 - 500 - shift)
    assert twice.tolist() == (np.arange(426, 575)[(depth >= 0) & (depth < 14.8 + 2)] + 0.5).tolist()


def test_a_single_pixel_in_a_face_s_square_is_the_face_s() -> None:
    """On its border too: of this crop the square is 128 pixels wide, from 36.5 on, and so is the pixel's middle."""
    crop = Crop("own", 128, eyes=((32.0, 64.0), (96.0, 64.0)))
    for x, owned in ((100, True), (36, True), (35, False), (164, True), (165, False)):
        (part,) = divided(hole(300, 300, (x, 100, x + 1, 101)), [eyes(100.5, 100.5, 64)], 16, crop)
        assert (part.eyes is not None) == owned
        assert part.mask.tolist() == [[True]]


def test_what_is_left_of_the_first_face_s_hole_belongs_to_the_next() -> None:
    pairs = [eyes(100, 100, 43), eyes(300, 100, 43)]  # squares from 26 to 174 and from 226 to 374
    parts = divided(hole(500, 200, (150, 90, 240, 110)), pairs, 16, center148())
    last = [part for part in parts if shown(part, (200, 500))[100, 239]]
    assert last[-1].eyes is not None
    assert last[-1].eyes[:, 0].mean() == pytest.approx(300)


def test_a_square_takes_what_lies_in_it_to_its_very_edge() -> None:
    """Of the largest hole it is 100 wide, from (470, 260) to (570, 360)."""
    face = eyes(100, 100, 20)
    largest = (500, 300, 540, 320)
    for box, count in (
        ((470, 260, 475, 265), 1),
        ((565, 355, 570, 360), 1),
        ((469, 260, 475, 265), 2),
        ((470, 259, 475, 265), 2),
        ((565, 355, 571, 360), 2),
        ((565, 355, 570, 361), 2),
    ):
        assert len(divided(hole(900, 700, largest, box), [face], 16, center148())) == count


def test_a_square_does_not_leave_the_picture_to_the_left_or_above() -> None:
    """Of holes in the corners: 2.5 times 20, and 16 at least."""
    face = eyes(450, 350, 20)
    for box, middle in (((0, 670, 20, 690), (25, 675)), ((880, 0, 900, 20), (875, 25)), ((0, 0, 20, 10), (25, 25))):
        (part,) = divided(hole(900, 700, box), [face], 16, center148())
        assert (part.frame.x, part.frame.y, part.frame.side) == (*middle, 50)


def test_a_square_that_is_wider_than_the_picture_is_high_looks_as_far_up_as_down() -> None:
    square = square_around(hole(60, 20, (0, 5, 60, 10)), (20, 0, 40, 20))
    assert (square.x, square.y, square.side) == (30, 10, 60)


def test_a_crop_without_a_side_says_nothing_of_eyes() -> None:
    pair = ((1.0, 2.0), (3.0, 2.0))
    assert expected(Crop("none", None, eyes=pair)) is None
    assert expected(Crop("none", 4)) is None
    places = expected(Crop("both", 4, eyes=pair))
    assert places is not None
    assert places.tolist() == [[0.25, 0.5], [0.75, 0.5]]


def test_a_part_does_not_change() -> None:
    (part,) = divided(hole(178, 218, (100, 120, 101, 121)), [], 16, center148())
    with pytest.raises(FrozenInstanceError):
        part.fade = 1.0  # type: ignore[misc]
