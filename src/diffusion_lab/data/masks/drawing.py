"""What a mask function is, and the little that all of them need."""

import threading
from collections.abc import Callable, Iterator, Sequence

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


class Sheet:
    """What masks of a size are drawn on, one after the other: to make one takes longer than to draw on it.

    Args:
        size: side of the masks in pixels.
    """

    def __init__(self, size: int) -> None:
        self._pixels = np.zeros((1, size, size), np.uint8)
        image = Image.frombuffer("L", (size, size), self._pixels, "raw", "L", 0, 1)
        image.readonly = 0  # else Pillow would draw into a copy, and copying it back takes longer than drawing it
        self._draw = ImageDraw.Draw(image)

    def cleared(self) -> ImageDraw.ImageDraw:
        """What draws on it with fill=1, after whatever was there is gone."""
        self._pixels.fill(0)
        return self._draw

    def mask(self) -> Tensor:
        """A copy of what was drawn, bool (1, size, size)."""
        return torch.from_numpy(self._pixels.copy().view(np.bool_))


_SHEETS = threading.local()


def sheet(size: int) -> Sheet:
    """This thread's sheet of that size, until it draws the next mask."""
    made: Sheet | None = getattr(_SHEETS, "last", None)
    if made is None or _SHEETS.size != size:
        made = Sheet(size)
        _SHEETS.last, _SHEETS.size = made, size
    return made


def drawn(mask: MaskFn, size: int, words: Sequence[int]) -> Tensor:
    """The mask of each word, bool (B, 1, size, size): of a generator that it seeds.

    Where the first one has not looked at its generator all are alike, since nothing else could tell them apart.
    """
    generator = Generator()
    before = generator.manual_seed(words[0]).get_state()
    first = mask(size, generator)
    if torch.equal(generator.get_state(), before):
        return first.repeat(len(words), 1, 1, 1)
    return torch.stack([first, *(mask(size, generator.manual_seed(word)) for word in words[1:])])
