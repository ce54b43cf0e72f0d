"""A network's squares over pictures that are larger than it: all of a hole lies in them, and they are joined again."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from diffusion_lab.diffusion.noise import ExampleNoise, Noise

MARGIN = 1 / 16
"""Of a window's side: so much of what is known is seen around a hole that fits into one."""
OVERLAP = 1 / 8
"""Of a window's side: neighbours share at least so much, and fade into each other there."""


@dataclass(frozen=True)
class Windows:
    """Where windows of one size lie over pictures, by the hole of each alone: a picture knows no company.

    Over a picture of their own size there is one, which is the whole of it.

    Args:
        size: s, their side.
        side: S, that of the pictures.
        corners: of each picture, the (top, left) of its windows: one at least.
    """

    size: int
    side: int
    corners: tuple[tuple[tuple[int, int], ...], ...]

    @classmethod
    def over(cls, holes: Tensor, size: int) -> "Windows":
        """Those that hold a pixel of the hole, of a grid that is spread evenly over the box around it.

        Args:
            holes: ``(B, 1, S, S)`` bool.
            size: s, up to S.
        """
        corners = []
        for hole in holes[:, 0].cpu():
            tops, lefts = starts(hole.any(1), size), starts(hole.any(0), size)
            grid = [(top, left) for top in tops for left in lefts]
            held = [(top, left) for top, left in grid if bool(hole[top : top + size, left : left + size].any())]
            corners.append(tuple(held or grid[:1]))
        return cls(size, holes.shape[-1], tuple(corners))

    def __len__(self) -> int:
        """R, of all pictures together."""
        return sum(map(len, self.corners))

    def cut(self, pictures: Tensor) -> Tensor:
        """``(B, C, S, S)`` as ``(R, C, s, s)``, the windows of the first picture first."""
        return torch.stack([*chain(*map(self._of, self.corners, pictures))])

    def joined(self, made: Tensor) -> Tensor:
        """The inverse, ``(R, C, s, s)`` as ``(B, C, S, S)``: neighbours fade into each other, and where none is, is 0.

        Where a single window lies its pixels keep their bits.
        """
        ramp = torch.arange(1.0, self.size + 1, device=made.device)
        ramp = torch.minimum(ramp, ramp.flip(0))
        weight = (ramp[:, None] * ramp).to(made.dtype)
        pictures = made.new_zeros(len(self.corners), made.shape[1], self.side, self.side)
        rows = iter(made)
        for picture, corners in zip(pictures, self.corners, strict=True):
            total = made.new_zeros(1, self.side, self.side)
            for place in self._of(corners, total):
                place += weight
            shares = [weight / place for place in self._of(corners, total)]
            for place, share in zip(self._of(corners, picture), shares, strict=True):
                place += next(rows) * share
        return pictures

    def noise(self, seeds: Sequence[int] | Tensor, channels: int, device: torch.device) -> Noise:
        """That of whole pictures, seen through the windows: where two overlap, they see the same.

        Args:
            seeds: one per picture.
            channels: C.
            device: where the noise is wanted.
        """
        fields = [ExampleNoise([int(seed)], (channels, self.side, self.side)) for seed in seeds]

        def draw() -> Tensor:
            windows = (self._of(corners, field()[0]) for corners, field in zip(self.corners, fields, strict=True))
            return torch.stack([*chain(*windows)]).to(device)

        return draw

    def _of(self, corners: Sequence[tuple[int, int]], picture: Tensor) -> list[Tensor]:
        """Views of one picture."""
        return [picture[:, top : top + self.size, left : left + self.size] for top, left in corners]


def starts(held: Tensor, size: int) -> list[int]:
    """Where windows begin along one side of a picture, so that they hold a hole.

    Args:
        held: ``(S,)`` bool, which pixels have a part of the hole beside them.
        size: s, up to S.

    Example:
        >>> held = torch.zeros(64, dtype=torch.bool)
        >>> held[20:22] = True
        >>> starts(held, 16), starts(~held, 16), starts(held, 64)
        ([13], [0, 12, 24, 36, 48], [0])
    """
    length = len(held)
    places = held.nonzero().flatten().tolist() or [length // 2]
    margin, overlap = round(MARGIN * size), round(OVERLAP * size)
    low, high = max(places[0] - margin, 0), min(places[-1] + 1 + margin, length)
    if high - low <= size:
        return [min(max((low + high - size) // 2, 0), length - size)]
    steps = -(-(high - low - size) // (size - overlap))
    return [low + round(step * (high - low - size) / steps) for step in range(steps + 1)]
