"""Dark and faded photos: a model that learned well-lit faces is shown them as if they were well lit."""

from dataclasses import dataclass

import torch
from torch import Tensor

LEAST = 0.37
"""Width of the luminances, from the 2nd to the 98th of 100, of which black to white is 1. One in a thousand of the
generated faces that the shipped model learned has less."""
MIDDLE, WIDTH = 0.44, 0.70
"""Of those faces' luminances, the median."""


@dataclass(frozen=True)
class Tone:
    """How a square is lit: what a model sees of x is ``gain * x + offset``, both in [-1, 1].

    Args:
        gain: 1 leaves it as it is.
        offset: 0 leaves it as it is.
    """

    gain: float = 1.0
    offset: float = 0.0

    def lit(self, x: Tensor) -> Tensor:
        """As the model sees it; what becomes too light or too dark is cut off."""
        return (self.gain * x + self.offset).clamp(-1, 1)

    def unlit(self, x: Tensor) -> Tensor:
        """As it was."""
        return (x - self.offset) / self.gain


def tone(square: Tensor, hole: Tensor) -> Tone:
    """The tone in which the known pixels of a square are lit as faces usually are; none if they nearly are.

    Args:
        square: ``(3, S, S)`` in [-1, 1].
        hole: ``(1, S, S)`` bool.

    Example:
        >>> ramp = torch.linspace(-1, 1, 64).expand(3, 64, 64)
        >>> nothing = torch.zeros(1, 64, 64, dtype=torch.bool)
        >>> tone(ramp, nothing)
        Tone(gain=1.0, offset=0.0)
        >>> dark = 0.25 * (ramp + 1) - 1  # a quarter of the light
        >>> round(tone(dark, nothing).gain, 1)
        2.9
    """
    weights = torch.tensor([0.299, 0.587, 0.114]).to(square)
    luminance = torch.einsum("chw,c->hw", square, weights)[~hole[0]]
    if len(luminance) < 100:
        return Tone()  # too little is known
    low, high = (luminance.quantile(torch.tensor([0.02, 0.98]).to(square)).double() + 1).div(2).tolist()
    if not 0.02 < high - low < LEAST:  # of one colour, it has no tone
        return Tone()
    gain = WIDTH / (high - low)
    return Tone(gain, 2 * (MIDDLE - gain * (low + high) / 2) - 1 + gain)
