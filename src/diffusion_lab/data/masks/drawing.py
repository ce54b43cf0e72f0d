"""What a mask function is, and the little that all of them need."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Generator, Tensor

MaskFn = Callable[[int, Generator], Tensor]
"""(size, generator) -> bool (1, size, size), True = hole; the same generator state draws the same mask."""


def uniforms(count: int, generator: Generator) -> Iterator[float]:
    """That many numbers in [0, 1), drawn in one call since each call costs as much as a stroke."""
    return iter(torch.rand(count, generator=generator, dtype=torch.float64).tolist())


def normals(count: int, generator: Generator) -> Iterator[float]:
    """That many numbers from N(0, 1), drawn in one call."""
    return iter(torch.randn(count, generator=generator, dtype=torch.float64).tolist())


def whole_number(low: int, high: int, uniform: float) -> int:
    """Map a number in [0, 1) to one of low..high, both included.

    Examples:
        >>> [whole_number(1, 3, u) for u in (0.0, 0.5, 0.999)]
        [1, 2, 3]
    """
    return low + int(uniform * (high - low + 1))


def blank(size: int) -> tuple[Tensor, ImageDraw.ImageDraw]:
    """An empty mask, bool (1, size, size), and what draws into it with fill=1."""
    pixels = np.zeros((size, size), np.uint8)
    image = Image.frombuffer("L", (size, size), pixels, "raw", "L", 0, 1)
    image.readonly = 0  # else Pillow would draw into a copy, and copying it back takes longer than drawing it
    return torch.from_numpy(pixels.view(np.bool_)).unsqueeze(0), ImageDraw.Draw(image)
