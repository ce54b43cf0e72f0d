"""Masks drawn from several kinds."""

from collections.abc import Sequence
from itertools import accumulate

from torch import Generator, Tensor

from diffusion_lab.data.masks.boxes import rectangles
from diffusion_lab.data.masks.brush import free_form
from diffusion_lab.data.masks.drawing import MaskFn, uniforms


class Mixture:
    """A mask function that hands each mask to one of several others.

    Args:
        masks: the others.
        weights: how often each is chosen, in any unit; None chooses all alike.

    Raises:
        ValueError: there are no masks, their number is not that of the weights, or the weights cannot be chances.
    """

    def __init__(self, masks: Sequence[MaskFn], weights: Sequence[float] | None = None) -> None:
        chances = [1.0] * len(masks) if weights is None else [float(weight) for weight in weights]
        if len(chances) != len(masks) or min(chances, default=0) < 0 or not sum(chances) > 0:
            raise ValueError(
                f"A mixture of {len(masks)} masks needs as many weights >= 0, not all 0, but got {weights}."
            )
        self.masks = tuple(masks)
        self.thresholds = [each / sum(chances) for each in accumulate(chances)]

    def __call__(self, size: int, generator: Generator) -> Tensor:
        """A mask of one of the kinds, bool (1, size, size)."""
        u = next(uniforms(1, generator))
        chosen = next((i for i, threshold in enumerate(self.thresholds) if u < threshold), len(self.masks) - 1)
        return self.masks[chosen](size, generator)


_PALETTE = Mixture([free_form, rectangles], [0.6, 0.4])


def palette(size: int, generator: Generator) -> Tensor:
    """Palette's training masks: 60 % free-form strokes, 40 % one to five boxes over 10 to 40 % of the picture."""
    return _PALETTE(size, generator)
