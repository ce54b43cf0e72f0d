"""Frames that are a little off: where they may lie, and that pixels come from where the frame says."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from diffusion_lab.data.crops import Crop, Wider, center148, full
from diffusion_lab.data.jitter import Jitter

CROP = Crop("square", 40, (10, 10))
STILL = Jitter(scale=(1.0, 1.0), shift=0.0, turn=0.0)


def ramps(side: int) -> Tensor:
    """A picture that says of each pixel where it is: x in red and y in green, two levels a pixel."""
    places = torch.arange(side, dtype=torch.uint8) * 2
    x, y = torch.meshgrid(places, places, indexing="xy")
    return torch.stack([x, y, torch.zeros_like(x)])[None]


def noise(side: int) -> Tensor:
    return torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@given(st.integers(0, 2**63 - 1))
def test_a_frame_stays_within_what_was_asked_for(key: int) -> None:
    drawn = Jitter(scale=(0.8, 1.3), shift=0.1, turn=12.0).frame(50.0, key)
    assert 40 <= drawn.side <= 65
    assert max(abs(drawn.x), abs(drawn.y)) <= 5
    assert abs(drawn.angle) <= math.radians(12)


def test_frames_are_drawn_evenly_to_both_sides_and_are_near_as_often_as_far() -> None:
    frames = [Jitter().frame(1.0, key) for key in range(4000)]
    for values, most in (
        ([each.x for each in frames], 0.06),
        ([each.y for each in frames], 0.06),
        ([each.angle for each in frames], math.radians(8)),
        ([math.log(each.side / math.sqrt(0.88 * 1.2)) for each in frames], math.log(1.2 / 0.88) / 2),
    ):
        # A uniform variable on [-m, m] has the deviation m / sqrt(3); five standard errors.
        assert abs(np.mean(values)) < 5 * most / math.sqrt(3 * 4000)
        assert np.std(values) == pytest.approx(most / math.sqrt(3), rel=0.05)


def test_without_any_spread_the_picture_is_the_crops_own() -> None:
    pixels = noise(40)
    assert STILL.kept(CROP, 40) == 40
    assert torch.equal(STILL(pixels, [1, 2], CROP, 40), pixels)


@settings(max_examples=25)
@given(st.integers(0, 2**62), st.sampled_from([None, 16]))
def test_every_pixel_comes_from_where_the_frame_says(key: int, window: int | None) -> None:
    jitter = Jitter(scale=(0.9, 1.2), shift=0.05, turn=10.0)
    wide = CROP.side + 2 * jitter.around(CROP).rim
    size = 64
    side = window or size
    cut = jitter(ramps(wide), [key], CROP, size, window)[0].float() / 2 + 0.5  # a pixel's middle is at one half
    drawn = jitter.frame(float(CROP.side), key, side / size)
    middles = (np.arange(side) + 0.5) / side
    x, y = np.meshgrid(middles, middles)
    expected = drawn.outside(np.stack([x, y], -1).reshape(-1, 2)).reshape(side, side, 2) + wide / 2
    inside = torch.from_numpy(((expected > 3) & (expected < wide - 3)).all(-1))  # beyond, edges are repeated
    assert inside.float().mean() > 0.5
    for channel in (0, 1):
        off = (cut[channel] - torch.from_numpy(expected[..., channel])).abs()
        assert off[inside].max() < 0.75  # half a level of rounding, twice, and Lanczos beside the edges


def test_a_window_is_a_part_of_the_frame() -> None:
    jitter, key, part = Jitter(), 7, 0.25
    whole, window = jitter.frame(100.0, key), jitter.frame(100.0, key, part)
    assert (window.side, window.angle) == (whole.side * part, whole.angle)
    corners = whole.inside(window.outside(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])))
    assert corners.min() >= -1e-12
    assert corners.max() <= 1 + 1e-12
    middles = np.array([[(w := jitter.frame(1.0, key, part)).x, w.y] for key in range(2000)])
    assert np.abs(middles.mean(0)).max() < 0.03  # the whole frame is covered alike


def test_what_is_drawn_follows_from_the_key_alone() -> None:
    jitter, pixels = Jitter(), noise(48)
    both = jitter(pixels, [3, 4], CROP, 32)
    assert torch.equal(jitter(pixels[1:], [4], CROP, 32), both[1:])
    assert not torch.equal(jitter(pixels[1:], [3], CROP, 32), both[1:])


def test_a_wider_crop_has_the_crop_in_its_middle_and_repeats_the_edges() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8))
    wide, crop = np.asarray(Wider(CROP, 14)(picture)), np.asarray(CROP(picture))
    assert wide.shape == (68, 68, 3)
    assert np.array_equal(wide[14:-14, 14:-14], crop)
    assert np.array_equal(wide[0], wide[4])  # four rows lie beyond the picture
    assert Jitter().around(center148()) == Wider(center148(), 15)  # all of the face's 178 pixels
    assert Jitter().around(full()) == Wider(full(), 0)  # nothing lies around the largest square
    assert Jitter(detail=2.0).kept(full(), 32) == 64


@pytest.mark.parametrize(
    "made",
    [
        lambda: Jitter(scale=(1.2, 0.8)),
        lambda: Jitter(scale=(0.0, 1.0)),
        lambda: Jitter(shift=-0.1),
        lambda: Jitter(turn=-1.0),
        lambda: Jitter(detail=0.0),
    ],
)
def test_what_makes_no_sense_is_said(made) -> None:
    with pytest.raises(ValueError, match="jitter"):
        made()
