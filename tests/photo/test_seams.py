"""A step along a hole's border goes, the picture's own steps stay, and so does all that is known."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from diffusion_lab import photo
from diffusion_lab.data.crops import full
from diffusion_lab.photo.seams import OWN, closed

SIDE = 64
EXACTLY = partial(torch.testing.assert_close, rtol=0, atol=0)


def hole(*rows_and_columns: slice) -> Tensor:
    mask = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.bool)
    mask[0, 0][rows_and_columns] = True
    return mask


BOX = hole(slice(20, 44), slice(16, 48))
RIGHT = hole(slice(None), slice(32, None))


def smooth(seed: int) -> Tensor:
    coarse = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) - 0.5
    return torch.nn.functional.interpolate(coarse, SIDE, mode="bicubic")


def step(filled: Tensor, image: Tensor, mask: Tensor) -> Tensor:
    """The mean step over the border, with its sign, of each channel."""
    whole = torch.where(mask, filled, image)
    sums, count = torch.zeros(3), 0
    for dim in (-2, -1):
        change = mask.int().diff(dim=dim)  # 1 where the second of two is the one in the hole
        sums += (whole.diff(dim=dim) * change).sum(dim=(0, 2, 3))
        count += int((change != 0).sum())
    return sums / count


@pytest.mark.parametrize("shade", [0.02, -0.05])
def test_on_a_straight_border_a_step_fades_as_a_gaussian(shade: float) -> None:
    """G * w d over g is the integral along the border: w d exp(-t^2 / 2 sigma^2) at t pixels from it.

    By docs/photos.md sigma is a thirty-second of the square.
    """
    grey, sigma = torch.zeros(1, 3, SIDE, SIDE), SIDE / 32
    made = closed(torch.where(RIGHT, shade, grey), grey, RIGHT)[0, 1, SIDE // 2, 32:]
    removed = shade * math.exp(-(shade**2) / (2 * OWN**2)) * torch.exp(-(torch.arange(32.0) ** 2) / (2 * sigma**2))
    torch.testing.assert_close(made, shade - removed, atol=0.01 * abs(shade), rtol=0)


@given(st.integers(0, 99), st.floats(-0.06, 0.06))
def test_a_shade_too_much_goes_and_known_pixels_do_not_matter_beyond_the_border(seed: int, shade: float) -> None:
    truth = smooth(seed)
    before, after = truth + shade, closed(truth + shade, truth, BOX)
    assert step(after, truth, BOX).abs().max() <= 0.4 * step(before, truth, BOX).abs().max() + 0.01
    EXACTLY(torch.where(BOX, before, after), before)  # outside of the hole nothing is touched
    assert (after - before)[..., 30:34, 30:34].abs().max() < 0.005  # nor is it deep inside
    beyond = torch.where(torch.nn.functional.max_pool2d(BOX.float(), 3, 1, 1) > 0, truth, 0.9)
    EXACTLY(closed(before, beyond, BOX)[:, :, 20:44, 16:48], after[:, :, 20:44, 16:48])


def test_a_shade_that_is_not_the_same_everywhere() -> None:
    """Dark above, light below: each end of the border is moved its own way."""
    grey = torch.zeros(1, 3, SIDE, SIDE)
    shades = torch.linspace(-0.06, 0.06, SIDE)[:, None].expand(SIDE, SIDE)
    made = closed(torch.where(RIGHT, shades, grey), grey, RIGHT)[0, 0, :, 32]
    assert made.abs().max() < 0.015
    assert made[:8].max() < 0 < made[-8:].min()


def test_an_edge_of_the_picture_itself_stays() -> None:
    """A red mouth in a hole that was drawn along its lips is no shade, and a light wall above it changes nothing."""
    grey = torch.zeros(1, 3, SIDE, SIDE)
    red = torch.tensor([0.5, -0.4, -0.4]).view(1, 3, 1, 1).expand_as(grey)
    torch.testing.assert_close(closed(red, grey, BOX), red, atol=0.01, rtol=0)
    shade = torch.where(torch.arange(SIDE)[:, None] < 32, 0.6, 0.03).expand_as(grey)
    rest = slice(33, SIDE)  # where all neighbours are dark, far steps weigh nothing
    apart = closed(torch.full_like(grey, 0.03), grey, RIGHT)
    torch.testing.assert_close(closed(shade, grey, RIGHT)[..., rest, 32], apart[..., rest, 32], atol=0.012, rtol=0)


def test_the_pictures_own_grain_stays() -> None:
    """Steps that change from pixel to pixel are not averaged away: a border of stripes is left as it is."""
    stripes = torch.tensor([0.1, -0.1]).repeat(SIDE // 2)[:, None].expand(1, 3, SIDE, SIDE)
    grey, inside = torch.zeros(1, 3, SIDE, SIDE), slice(8, -8)  # at the border's two ends one stripe is seen twice
    torch.testing.assert_close(
        closed(stripes, grey, RIGHT)[..., inside, :], stripes[..., inside, :], atol=0.002, rtol=0
    )


def test_without_a_border_nothing_changes() -> None:
    filled, image = smooth(1), smooth(2)
    for everywhere in (torch.zeros_like(BOX), torch.ones_like(BOX)):
        EXACTLY(closed(filled, image, everywhere), filled)


@pytest.mark.parametrize("end", [1.0, -1.0])
def test_no_colour_goes_beyond_black_and_white(end: float) -> None:
    """Known pixels that are lighter than white ask for a filling that is too: it is white."""
    filled = torch.full((1, 3, SIDE, SIDE), end)
    EXACTLY(closed(filled, 1.05 * filled, BOX), filled)


def test_every_square_has_its_own_border() -> None:
    filled, image = (torch.cat([smooth(seed), smooth(seed + 1)]) for seed in (1, 5))
    holes = torch.cat([BOX, RIGHT])
    EXACTLY(closed(filled, image, holes)[1:], closed(filled[1:], image[1:], RIGHT))


@pytest.mark.parametrize("side", [SIDE, SIDE // 2])
def test_in_a_photo(side: int) -> None:
    """A model that paints the right picture a shade too light, at the squares' side or half of it."""
    levels = ((smooth(3)[0] + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
    cut = photo.cut(Image.fromarray(levels), BOX[0], [SIDE], full())
    made = torch.nn.functional.avg_pool2d(smooth(3), SIDE // side) + 0.06
    plain, whole = (np.asarray(how(cut, made)).astype(int) for how in (photo.paste, photo.finish))
    known = ~BOX[0, 0].numpy()
    assert (whole[known] == levels[known]).all()
    edge = levels[20, 16:48].astype(int)
    assert math.isclose((plain[20, 16:48] - edge).mean(), 0.06 * 127.5, abs_tol=1)
    assert abs((whole[20, 16:48] - edge).mean()) < 0.4 * 0.06 * 127.5


def test_all_four_sides_are_alike() -> None:
    """Turned or mirrored before is turned or mirrored after, of a hole with a border on each side."""
    filled, image = smooth(3) + 0.05, smooth(3)
    plain = closed(filled, image, BOX)
    for turn in (lambda x: x.mT, lambda x: x.flip(-1), lambda x: x.flip(-2)):
        made = closed(*(turn(x).contiguous() for x in (filled, image, BOX)))
        torch.testing.assert_close(made, turn(plain), atol=1e-5, rtol=0)


def test_each_filling_has_its_hole() -> None:
    filled = torch.cat([smooth(1), smooth(2)])
    with pytest.raises(ValueError, match="zip"):
        closed(filled, filled, BOX)
