"""Masks with straight edges. Lengths are fractions of the picture's side."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from diffusion_lab.data.masks.drawing import uniforms, whole_number


def everything(size: int, generator: Generator) -> Tensor:
    """The whole picture: a model that trains on it now and then can also paint without being shown anything.

    Args:
        size: side of the mask in pixels.
        generator: not used.
    """
    return torch.ones(1, size, size, dtype=torch.bool)


def rectangle(size: int, generator: Generator, least: float = 0.25, most: float = 0.5) -> Tensor:
    """One box of random sides and place, inside the picture.

    Args:
        size: side of the mask in pixels.
        generator: source of randomness.
        least: shortest side of the box.
        most: longest side of the box.
    """
    u = uniforms(4, generator)
    mask = np.zeros((size, size), np.bool_)
    width, height = (least + (most - least) * next(u) for _ in range(2))
    _fill(mask, next(u) * (1 - width), next(u) * (1 - height), width, height)
    return _tensor(mask)


def rectangles(
    size: int, generator: Generator, number: int = 5, least: float = 0.1, most: float = 0.4, elongation: float = 2.0
) -> Tensor:
    """One to ``number`` boxes that together cover between ``least`` and ``most`` of the picture, as Palette's do.

    Args:
        size: side of the mask in pixels.
        generator: source of randomness.
        number: at most so many boxes.
        least: least share of the picture that is covered.
        most: largest share of the picture that is covered.
        elongation: a box is at most so many times longer than wide, where it fits.
    """
    while True:  # boxes overlap and are rounded to pixels: draw again where that left the range
        mask = np.zeros((size, size), np.bool_)
        u = uniforms(2 + 4 * number, generator)
        count = whole_number(1, number, next(u))
        area = least + (most - least) * next(u)
        weights = [0.2 + next(u) for _ in range(count)]
        for weight in weights:
            share = area * weight / sum(weights)
            aspect = elongation ** (2 * next(u) - 1)  # log-uniform: as often tall as wide
            width = min(1.0, math.sqrt(share * aspect))
            height = share / width
            _fill(mask, next(u) * (1 - width), next(u) * (1 - height), width, height)
        if least <= np.count_nonzero(mask) / size**2 <= most:
            return _tensor(mask)


def scattered(size: int, generator: Generator, number: int, least: float, most: float, margin: float = 0.0) -> Tensor:
    """One to ``number`` boxes of sides ``least`` to ``most`` each, at least ``margin`` from the border.

    Args:
        size: side of the mask in pixels.
        generator: source of randomness.
        number: at most so many boxes.
        least: shortest side of a box.
        most: longest side of a box.
        margin: what stays free at each border.
    """
    mask = np.zeros((size, size), np.bool_)
    u = uniforms(1 + 4 * number, generator)
    for _ in range(whole_number(1, number, next(u))):
        width, height = (least + (most - least) * next(u) for _ in range(2))
        left, top = (margin + next(u) * (1 - 2 * margin - side) for side in (width, height))
        _fill(mask, left, top, width, height)
    return _tensor(mask)


def center(size: int, generator: Generator, side: float = 0.5) -> Tensor:
    """The square in the centre: the test mask of Palette and most papers.

    Args:
        size: side of the mask in pixels.
        generator: not used, nothing is random here.
        side: of the square.
    """
    mask = np.zeros((size, size), np.bool_)
    _fill(mask, (1 - side) / 2, (1 - side) / 2, side, side)
    return _tensor(mask)


def half(size: int, generator: Generator, turns: Sequence[int] = (0, 1, 2, 3)) -> Tensor:
    """One of the halves, each as often: the left, right, upper or lower one.

    Args:
        size: side of the mask in pixels.
        generator: source of randomness.
        turns: the halves to choose from, as quarter turns of the left one; 2 is the right one.
    """
    side = turns[whole_number(0, len(turns) - 1, next(uniforms(1, generator)))]
    mask = torch.zeros(1, size, size, dtype=torch.bool)
    mask[:, :, : size // 2] = True
    return mask.rot90(side, (1, 2)).contiguous()


def sides(
    size: int, generator: Generator, least: float = 0.25, most: float = 0.5, counts: Sequence[int] = (1, 2, 4)
) -> Tensor:
    """One, two opposite or all four sides, together `least` to `most` of the picture (Palette, section 5.3).

    Args:
        size: side of the mask in pixels.
        generator: source of randomness.
        least: least share of the picture that is erased.
        most: largest.
        counts: of sides, drawn evenly.
    """
    u = uniforms(3, generator)
    count = counts[whole_number(0, len(counts) - 1, next(u))]
    area, turn = least + (most - least) * next(u), whole_number(0, 3, next(u))
    mask = torch.ones(1, size, size, dtype=torch.bool)
    if count == 4:
        kept = min(size - 1, math.ceil(size * math.sqrt(1 - area)))
        first = (size - kept) // 2
        mask[:, first : first + kept, first : first + kept] = False
        return mask
    erased = max(1, math.floor(size * area))
    first = erased // count if count == 2 else 0  # one side: the columns after the known ones
    mask[:, :, first : first + size - erased] = False
    return mask.rot90(turn, (1, 2)).contiguous()


def expand(size: int, generator: Generator, side: float = 0.25) -> Tensor:
    """All but the square in the centre (RePaint).

    Args:
        size: side of the mask in pixels.
        generator: not used, nothing is random here.
        side: of the square that is known.
    """
    return ~center(size, generator, side)


def alternate_lines(size: int, generator: Generator) -> Tensor:
    """Every second row (RePaint); nothing is random here."""
    mask = torch.zeros(1, size, size, dtype=torch.bool)
    mask[:, 1::2] = True
    return mask


def super_resolution(size: int, generator: Generator, factor: int = 2) -> Tensor:
    """All but every second pixel of every second row, so that filling it is upsampling (RePaint).

    Args:
        size: side of the mask in pixels.
        generator: not used, nothing is random here.
        factor: one of so many pixels is known, along each side.
    """
    mask = torch.ones(1, size, size, dtype=torch.bool)
    mask[:, ::factor, ::factor] = False
    return mask


def _fill(mask: NDArray[np.bool_], left: float, top: float, width: float, height: float) -> None:
    """Add a box of at least one pixel; sides and place are rounded apart, so that the area does not depend on it."""
    size = len(mask)
    wide, high = (min(size, max(1, round(size * each))) for each in (width, height))
    x, y = min(round(size * left), size - wide), min(round(size * top), size - high)
    mask[y : y + high, x : x + wide] = True


def _tensor(mask: NDArray[np.bool_]) -> Tensor:
    return torch.from_numpy(mask).unsqueeze(0)
