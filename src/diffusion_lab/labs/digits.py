"""Digits drawn with a font, a little turned, grown and moved: pictures that need no download and train in minutes."""

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Generator, Tensor

DRAWN = 64  # pixels that a digit is drawn at, before it is made small


def digit(number: int, size: int, angle: float, scale: float, right: float, down: float) -> Image.Image:
    """One digit, white on black.

    Args:
        number: 0 to 9.
        size: of the picture in pixels.
        angle: in degrees, against the clock.
        scale: of the digit; at 1 it is three quarters as high as the picture.
        right: shift, as a part of the picture's side.
        down: likewise.
    """
    canvas = Image.new("L", (DRAWN, DRAWN))
    place = (DRAWN * (0.5 + right), DRAWN * (0.5 + down))
    font = ImageFont.load_default(round(DRAWN * scale))
    ImageDraw.Draw(canvas).text(place, str(number), fill=255, font=font, anchor="mm")
    turned = canvas.rotate(angle, Image.Resampling.BILINEAR)
    return turned.resize((size, size), Image.Resampling.BOX)


def digits(count: int, generator: Generator, size: int = 16) -> tuple[Tensor, Tensor]:
    """Pictures ``(count, 1, size, size)`` in [-1, 1], and which digit each is ``(count,)``.

    Example:
        >>> pictures, numbers = digits(4, Generator().manual_seed(0))
        >>> pictures.shape, numbers.shape
        (torch.Size([4, 1, 16, 16]), torch.Size([4]))
    """
    numbers = torch.randint(10, (count,), generator=generator)
    moved = 2 * torch.rand(count, 4, generator=generator) - 1
    rows = (moved * torch.tensor([12.0, 0.12, 0.06, 0.06]) + torch.tensor([0.0, 1.0, 0.0, 0.0])).tolist()
    drawn = [np.asarray(digit(number, size, *row)) for number, row in zip(numbers.tolist(), rows, strict=True)]
    return torch.from_numpy(np.stack(drawn)).float().div(127.5).sub(1)[:, None], numbers
