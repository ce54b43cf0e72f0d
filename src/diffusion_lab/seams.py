"""No seam around a hole: the step at its border, as it is on average along it, fades into the filling."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

WIDTH = 1 / 32
"""Of a square's side: over so much of the border a step is averaged, and so far into the hole its removal reaches."""


def closed(filled: Tensor, image: Tensor, hole: Tensor) -> Tensor:
    """Fillings whose colours, along the hole's border, are on average those of the known pixels beside them.

    A model's filling is often a shade too light or too dark all along an edge, which the eye sees as a line. With a
    Gaussian G of `WIDTH` and d the steps between the n pairs of neighbours of which one lies in the hole, this adds
    (G * d) / max(G * n, g), where g is G * n on a straight border: the mean step there, and less of it inwards. Steps
    that change from pixel to pixel, which are the picture's own, stay. The membranes of Perez et al. (2003) close every
    step, and so take the grain out of the border as well.

    Args:
        filled: ``(P, 3, S, S)`` in [-1, 1].
        image: ``(P, 3, S, S)`` in [-1, 1], the known pixels.
        hole: ``(P, 1, S, S)`` bool.

    Returns:
        ``(P, 3, S, S)`` in [-1, 1]; `filled` where all is known or nothing is.

    Example:
        >>> hole = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
        >>> hole[..., 32:] = True
        >>> grey = torch.zeros(1, 3, 64, 64)
        >>> made = closed(torch.where(hole, 0.1, grey), grey, hole)
        >>> [round(float(value), 2) for value in made[0, 0, 32, [31, 32, 34, 36, 38]]]
        [0.0, 0.0, 0.04, 0.09, 0.1]
    """
    whole = torch.where(hole, filled, image)
    added = [torch.from_numpy(_removal(*each)) for each in zip(whole.float().cpu(), hole.cpu(), strict=True)]
    return torch.where(hole, filled + torch.stack(added).to(filled), filled).clamp(-1, 1)


def _removal(whole: Tensor, hole: Tensor) -> NDArray[np.float32]:
    """What is added to one square, ``(3, S, S)``."""
    import cv2  # late, as in frames.py

    pixels, missing = whole.permute(1, 2, 0).numpy(), hole[0].numpy()
    steps = np.zeros((*missing.shape, 4), np.float32)  # d in three channels and n in the fourth, of the hole's pixels
    for axis in (0, 1):
        low, high = (tuple(rest if its == axis else slice(None) for its in (0, 1)) for rest in (_LOW, _HIGH))
        for inside, outside in ((low, high), (high, low)):
            pairs = missing[inside] & ~missing[outside]
            steps[inside][pairs] += np.column_stack(
                [pixels[outside][pairs] - pixels[inside][pairs], np.ones(pairs.sum(), np.float32)]
            )
    sigma = WIDTH * len(missing)
    spread = cv2.GaussianBlur(steps, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)  # borders end at the square's
    straight = 1 / (math.sqrt(2 * math.pi) * sigma)
    return np.asarray(spread[..., :3] / spread[..., 3:].clip(min=straight), np.float32).transpose(2, 0, 1)


_LOW, _HIGH = slice(None, -1), slice(1, None)
