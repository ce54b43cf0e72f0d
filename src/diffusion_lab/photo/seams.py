"""No seam around a hole: the step at its border, as it is on average along it, fades into the filling."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

WIDTH = 1 / 32
"""Of a square's side: over so much of the border a step is averaged, and so far into the hole its removal reaches."""
OWN = 0.12
"""Of black to white's 2, over all channels: far larger steps are the picture's own edges, and have no say."""


def closed(filled: Tensor, image: Tensor, hole: Tensor) -> Tensor:
    """Fillings whose colours, along the hole's border, are on average those of the known pixels beside them.

    A model's filling is often a shade too light or too dark all along an edge, which the eye sees as a line. With a
    Gaussian G of `WIDTH`, d the steps between neighbours of which one lies in the hole, and w = exp(-|d|^2 / 2 OWN^2)
    what they have to say, this adds (G * w d) / max(G * w, g), where g is G * 1 on a straight border: the mean step
    there, and less of it inwards. Steps that change from pixel to pixel stay, since they are the picture's own, and so
    do large ones. The membranes of Perez et al. (2003) close every step: the grain and the edges of the picture, too.

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
        >>> made = closed(torch.where(hole, 0.04, grey), grey, hole)
        >>> [round(float(value), 2) for value in made[0, 0, 32, [31, 32, 34, 36, 38]]]
        [0.0, 0.0, 0.02, 0.03, 0.04]
    """
    whole = torch.where(hole, filled, image)
    added = [torch.from_numpy(_removal(*each)) for each in zip(whole.float().cpu(), hole.cpu(), strict=True)]
    return torch.where(hole, filled + torch.stack(added).to(filled), filled).clamp(-1, 1)


def _removal(whole: Tensor, hole: Tensor) -> NDArray[np.float32]:
    """What is added to one square, ``(3, S, S)``."""
    import cv2  # late, as in frames.py

    pixels, missing = whole.permute(1, 2, 0).numpy(), hole[0].numpy()
    said = np.zeros((*missing.shape, 4), np.float32)  # w d in three channels and w in the fourth, of the hole's pixels
    upper, lower = slice(None, -1), slice(1, None)
    for axis in (0, 1):
        ours, theirs, hidden = (
            x.swapaxes(0, axis) for x in (said, pixels, missing)
        )  # views, of columns the second time
        for inside, outside in ((upper, lower), (lower, upper)):
            pairs = hidden[inside] & ~hidden[outside]
            steps = theirs[outside][pairs] - theirs[inside][pairs]
            weights = np.exp(-(steps**2).mean(1, keepdims=True) / (2 * OWN**2))
            ours[inside][pairs] += np.concatenate([weights * steps, weights], axis=1)
    sigma = WIDTH * len(missing)
    spread = cv2.GaussianBlur(said, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)  # borders end at the square's
    straight = 1 / (math.sqrt(2 * math.pi) * sigma)
    return np.asarray(spread[..., :3] / spread[..., 3:].clip(min=straight), np.float32).transpose(2, 0, 1)
