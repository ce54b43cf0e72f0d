"""LaMa's three kinds of test masks (Suvorov et al. 2022), with the values of its ``random_*_256`` settings over 256.

Its settings give boxes a weight of 0.3 beside 1 for strokes, so that 23 % of medium and thick masks are boxes.
"""

import math

from torch import Generator, Tensor

from diffusion_lab.data.masks.boxes import scattered
from diffusion_lab.data.masks.brush import paint
from diffusion_lab.data.masks.drawing import sheet, uniforms, whole_number

MOST = 0.5  # LaMa throws away masks that cover more
BOX_CHANCE = 0.3 / 1.3


def lama_thin(size: int, generator: Generator) -> Tensor:
    """LaMa's thin masks: 4 to 50 short strokes, 5 to 14 pixels of 256 wide."""
    return _below_most(size, generator, strokes=(4, 50), width=10 / 256, length=40 / 256)


def lama_medium(size: int, generator: Generator) -> Tensor:
    """LaMa's medium masks: 4 or 5 strokes, 5 to 54 pixels of 256 wide; or 1 to 5 boxes of sides 10 to 50."""
    if next(uniforms(1, generator)) < BOX_CHANCE:
        return scattered(size, generator, number=5, least=10 / 256, most=50 / 256)
    return _below_most(size, generator, strokes=(4, 5), width=50 / 256, length=100 / 256)


def lama_thick(size: int, generator: Generator) -> Tensor:
    """LaMa's thick masks: 1 to 5 strokes, 5 to 104 pixels of 256 wide; or 1 to 3 boxes of sides 30 to 150."""
    if next(uniforms(1, generator)) < BOX_CHANCE:
        while True:
            mask = scattered(size, generator, number=3, least=30 / 256, most=150 / 256, margin=10 / 256)
            if int(mask.sum()) <= MOST * size**2:
                return mask
    return _below_most(size, generator, strokes=(1, 5), width=100 / 256, length=200 / 256)


def _below_most(size: int, generator: Generator, strokes: tuple[int, int], width: float, length: float) -> Tensor:
    """Strokes of one to five straight pieces, each piece of its own width; drawn again while they cover too much."""
    page = sheet(size)
    while True:
        draw = page.cleared()
        u = uniforms(1 + strokes[1] * (3 + 3 * 5), generator)
        for stroke in range(whole_number(*strokes, next(u))):
            turn = -1 if stroke % 2 == 0 else 1
            x, y = next(u), next(u)
            for _ in range(whole_number(1, 5, next(u))):
                angle = turn * (0.01 + whole_number(0, 3, next(u)))  # in whole radians, as LaMa draws it
                step = 10 / 256 + length * next(u)
                end_x = min(max(x + step * math.sin(angle), 0), 1)
                end_y = min(max(y + step * math.cos(angle), 0), 1)
                paint(draw, size, [(x, y), (end_x, end_y)], 5 / 256 + width * next(u))
                x, y = end_x, end_y
        mask = page.mask()
        if int(mask.sum()) <= MOST * size**2:
            return mask
