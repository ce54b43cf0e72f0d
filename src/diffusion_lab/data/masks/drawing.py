"""What a mask function is, and the little that all of them need."""

from collections.abc import Callable, Iterator

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


def blank(size: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """An empty mask to draw into with fill=1."""
    image = Image.new("L", (size, size))
    return image, ImageDraw.Draw(image)


def to_mask(image: Image.Image) -> Tensor:
    """The drawing as bool (1, size, size), True where it was filled with 1."""
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.bool).view(1, image.height, image.width)
