"""A model's square within a picture, of any size and turn: to it and back, antialiased both ways."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
"""(H, W, 3)."""
Points = NDArray[np.float64]
"""(n, 2) of x and y; the upper left corner of the upper left pixel is (0, 0), its middle (.5, .5)."""

STRIP = 256
"""Rows of a picture that are resampled at a time where a square reaches beyond it."""


@dataclass(frozen=True)
class Frame:
    """A similarity transform between a picture and a model's square; it may reach beyond the picture.

    Args:
        x: of its middle, in pixels of the picture.
        y: the same, downwards.
        side: in pixels of the picture.
        angle: by which it is turned clockwise, in radians.
    """

    x: float
    y: float
    side: float
    angle: float = 0.0

    @classmethod
    def of_eyes(cls, eyes: Points, expected: Points) -> "Frame":
        """The only one that has two points where a model expects them.

        Args:
            eyes: ``(2, 2)``, in pixels of the picture.
            expected: ``(2, 2)``, as fractions of the square's side.

        Example:
            >>> Frame.of_eyes(np.array([[30.0, 40.0], [50.0, 40.0]]), np.array([[0.3, 0.5], [0.7, 0.5]]))
            Frame(x=40.0, y=40.0, side=50.0, angle=0.0)
        """
        p, q = (points @ np.array([1, 1j]) for points in (eyes, expected))  # a similarity is p = a q + b in the plane
        a = (p[1] - p[0]) / (q[1] - q[0])
        middle = p.mean() + a * (0.5 + 0.5j - q.mean())
        return cls(float(middle.real), float(middle.imag), float(abs(a)), float(np.angle(a)))

    def inside(self, points: Points) -> Points:
        """Points of the picture as fractions of the square's side, from its upper left corner."""
        return (points - (self.x, self.y)) @ self._turn / self.side + 0.5

    def outside(self, points: Points) -> Points:
        """The inverse of `inside`."""
        return ((points - 0.5) * self.side) @ self._turn.T + (self.x, self.y)

    def holding(self, points: Points) -> "Frame":
        """The smallest frame of the same turn that holds this one and some points, moved no more than needed.

        Args:
            points: ``(n, 2)``, in pixels of the picture; n may be 0.
        """
        within = np.concatenate([self.inside(points), [[0.0, 0.0], [1.0, 1.0]]])
        low, high = within.min(0), within.max(0)
        side = float((high - low).max())
        # Where there is room, this frame stays in the middle.
        start = np.clip((1 - side) / 2, high - side, low)
        x, y = self.outside(start[None] + side / 2)[0]
        return Frame(float(x), float(y), self.side * side, self.angle)

    def scaled(self, scale: float) -> "Frame":
        """The same frame of a picture that was made so many times larger."""
        return replace(self, x=self.x * scale, y=self.y * scale, side=self.side * scale)

    def cut(self, pixels: Pixels, size: int) -> Pixels:
        """The square as ``(size, size, 3)``; beyond the picture's edges their pixels are repeated."""
        grid, (left, top, side) = self._upright(size)
        height, width = pixels.shape[:2]
        first_row, first_column = math.floor(top), math.floor(left)
        rows = np.arange(first_row, math.ceil(top + side)).clip(0, height - 1)
        columns = np.arange(first_column, math.ceil(left + side)).clip(0, width - 1)
        left, top = left - first_column, top - first_row
        box = (left, top, min(left + side, len(columns)), min(top + side, len(rows)))
        if rows[0] + len(rows) - 1 == rows[-1] and columns[0] + len(columns) - 1 == columns[-1]:
            region = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]  # no copy of what lies inside
            upright = Image.fromarray(region).resize((grid, grid), Image.Resampling.LANCZOS, box=box)
        else:
            # One side after the other, as Pillow does it: with all that is repeated it may be many times the picture.
            narrow = np.empty((rows[-1] + 1 - rows[0], grid, 3), np.uint8)
            for row in range(0, len(narrow), STRIP):
                strip = Image.fromarray(pixels[rows[0] :][row : row + STRIP][: len(narrow) - row, columns])
                sides = (box[0], 0, box[2], strip.height)
                narrow[row : row + STRIP] = strip.resize((grid, strip.height), Image.Resampling.LANCZOS, box=sides)
            tall = Image.fromarray(narrow[rows - rows[0]])
            upright = tall.resize((grid, grid), Image.Resampling.LANCZOS, box=(0, box[1], grid, box[3]))
        return self._turned(np.asarray(upright), size)

    def cut_hole(self, mask: NDArray[np.bool_], size: int) -> NDArray[np.bool_]:
        """The square of a mask ``(H, W)``: a pixel is a hole if a part of it is."""
        grid, (left, top, side) = self._upright(size)
        lows = [np.floor(start + side / grid * np.arange(grid) + 1e-6).astype(int) for start in (top, left)]
        highs = [np.ceil(start + side / grid * np.arange(1, grid + 1) - 1e-6).astype(int) for start in (top, left)]
        for low, high, length in zip(lows, highs, mask.shape, strict=True):
            low.clip(0, length - 1, out=low)
            np.maximum(np.minimum(high, length), low + 1, out=high)
        rows = np.stack([mask[a:b].any(0) for a, b in zip(lows[0], highs[0], strict=True)])
        upright = np.stack([rows[:, a:b].any(1) for a, b in zip(lows[1], highs[1], strict=True)], axis=1)
        return self._turned(upright.astype(np.float32), size) > 0

    def spread(self, square: Pixels) -> "Spread":
        """A square ``(size, size, 3)`` laid back over the picture."""
        _, upright = self._upright(size := len(square))
        return Spread(Image.fromarray(self._turned(square, size, back=True)), *upright)

    @property
    def _turn(self) -> Points:
        """From the square's axes to the picture's, for columns."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return np.array([[cos, -sin], [sin, cos]])

    def _grid(self, size: int) -> int:
        """Pixels a side of the upright square around a turned one of `size` pixels; their middles are the same."""
        needed = size * (abs(math.cos(self.angle)) + abs(math.sin(self.angle)))
        return size + 2 * math.ceil((needed - size) / 2 - 1e-9)

    def _upright(self, size: int) -> tuple[int, tuple[float, float, float]]:
        """Its pixels a side and, in the picture, its left, top and side."""
        grid = self._grid(size)
        side = self.side * grid / size
        return grid, (self.x - side / 2, self.y - side / 2, side)

    def _turned(self, given: NDArray[Any], size: int, back: bool = False) -> NDArray[Any]:
        """Our square of the upright one around it, pixel by pixel; or, back, that one of ours."""
        if self.angle == 0:
            return given
        import cv2  # late: filling no hole needs it

        sides = (self._grid(size), size) if back else (size, self._grid(size))
        turn = self._turn.T if back else self._turn
        middles = [np.full(2, side / 2 - 0.5) for side in sides]
        matrix = np.column_stack([turn, middles[1] - turn @ middles[0]])
        whole = given.dtype == np.uint8
        how = (cv2.INTER_LANCZOS4 if whole else cv2.INTER_LINEAR) | cv2.WARP_INVERSE_MAP
        turned = cv2.warpAffine(given, matrix, (sides[0], sides[0]), flags=how, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(turned)


@dataclass(frozen=True)
class Spread:
    """A filled square that lies over a picture; any rectangle of it can be had alone.

    Args:
        square: upright.
        left: in pixels of the picture.
        top: the same.
        side: the same.
    """

    square: Image.Image
    left: float
    top: float
    side: float

    def part(self, left: int, top: int, right: int, bottom: int) -> Pixels:
        """What lies over a rectangle of the picture, ``(bottom - top, right - left, 3)``."""
        scale, most = self.square.width / self.side, float(self.square.width)
        x, y, x_end, y_end = (
            min(max(edge * scale, 0.0), most)
            for edge in (left - self.left, top - self.top, right - self.left, bottom - self.top)
        )
        size = right - left, bottom - top
        return np.asarray(self.square.resize(size, Image.Resampling.LANCZOS, box=(x, y, x_end, y_end)))
