"""Frames that are a little off: moved, turned, nearer, farther, so that an eye found two pixels off changes nothing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from diffusion_lab.data.crops import Crop, Wider
from diffusion_lab.data.degradations import drawing
from diffusion_lab.frames import Frame


@dataclass(frozen=True)
class Jitter:
    """Draws for each training picture the frame that it is cut in, near the crop's.

    Args:
        scale: the least and the largest side of it, in sides of the crop; drawn evenly on a logarithmic scale.
        shift: at most so far to each side, in sides of the crop, drawn evenly.
        turn: at most so many degrees either way, drawn evenly.
        detail: pixels that are kept for a pixel of the model: 1 for a picture that has no more, 2 for one that has.

    Raises:
        ValueError: for ranges that are none.
    """

    scale: tuple[float, float] = (0.88, 1.2)
    shift: float = 0.06
    turn: float = 8.0
    detail: float = 1.0

    def __post_init__(self) -> None:
        least, most = self.scale
        if not (0 < least <= most and self.shift >= 0 and self.turn >= 0 and self.detail > 0):
            raise ValueError(
                f"a jitter's scale is the least and the most, shift and turn are at least 0 and detail is above 0, got "
                f"scale={[*self.scale]}, shift={self.shift}, turn={self.turn}, detail={self.detail}"
            )

    def around(self, crop: Crop) -> Wider:
        """What must be kept of a picture; a frame that reaches farther repeats its edges.

        Around a crop of no fixed side, which is the largest square, nothing is kept.
        """
        return Wider(crop, math.ceil((crop.side or 0) * max(0.0, self.scale[1] - 1) / 2))

    def wider(self, crop: Crop) -> float:
        """Sides of the crop that are one side of what is kept."""
        return 1 + 2 * self.around(crop).rim / crop.side if crop.side else 1.0

    def kept(self, crop: Crop, size: int) -> int:
        """Side of what is kept of a picture, in pixels, for a model of so many."""
        return round(size * self.detail * self.wider(crop))

    def frame(self, side: float, key: int, window: float = 1.0) -> Frame:
        """The frame that a key draws, around the middle of the crop as (0, 0).

        Args:
            side: of the crop; the unit of the result.
            key: draws it.
            window: part of the frame's side that is wanted of it; its place is drawn too.
        """
        draws = torch.rand(6, dtype=torch.float64, generator=drawing(key)).numpy()
        (scale, turn), shift, place = draws[:2], draws[2:4], draws[4:]
        least, most = self.scale
        x, y = (2 * shift - 1) * self.shift * side
        whole = Frame(x, y, side * least * (most / least) ** scale, math.radians((2 * turn - 1) * self.turn))
        x, y = whole.outside(place[None] * (1 - window) + window / 2)[0]
        return replace(whole, x=float(x), y=float(y), side=float(whole.side * window))

    def __call__(self, pixels: Tensor, keys: Sequence[int], crop: Crop, size: int, window: int | None = None) -> Tensor:
        """Cuts each picture in a frame of its own.

        Args:
            pixels: uint8 ``(B, 3, K, K)``, what was kept (`around`).
            keys: draw the frames.
            crop: the model's.
            size: of the model's square.
            window: side of the square of it that is wanted, in its pixels; None is all of it.

        Returns:
            uint8 ``(B, 3, size, size)``, or as large as the window.
        """
        middle, window = pixels.shape[-1] / 2, window or size
        side = pixels.shape[-1] / self.wider(crop)
        cut = []
        for picture, key in zip(pixels.permute(0, 2, 3, 1).numpy(), keys, strict=True):
            drawn = self.frame(side, key, window / size)
            frame = replace(drawn, x=middle + drawn.x, y=middle + drawn.y)
            cut.append(frame.cut(picture, window))
        return torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2)
