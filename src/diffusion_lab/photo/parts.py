"""The parts of a hole: which of them belongs to which face, and the square that each is filled in."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffusion_lab.data.crops import Crop
from diffusion_lab.frames import Frame, Points

Mask = NDArray[np.bool_]
"""(H, W), True = hole."""

COARSE = 1024
"""Pixels of the longer side of the copy on which the hole is divided."""
GROWTH = 1.1
"""An aligned square grows to hold what reaches beyond it, up to so many times. If that is not enough it stays as it is,
and what lies beyond is filled apart: a face that fills less of the square is one that the model does not know."""
BAND = 0.1
"""Over such a part of the aligned square, the two fillings then fade into each other."""
CONTEXT = 2.5
"""The square of a hole outside all faces is so many times as wide."""
MOST = 4
"""Squares for such holes, at most."""


@dataclass(frozen=True)
class Part:
    """A part of the hole, and the frame that it is filled in.

    Args:
        frame: where the model's square lies.
        eyes: ``(2, 2)``, of the face that it is aligned by, in pixels of the picture; None if it is not aligned.
        top: of the box around it, in pixels of the picture.
        left: the same.
        mask: ``(h, w)``, its own pixels within that box.
        fade: part of the frame's side over which it fades in from the frame's border, over what the parts before it
            have filled there.
    """

    frame: Frame
    eyes: Points | None
    top: int
    left: int
    mask: Mask
    fade: float

    @classmethod
    def of(
        cls, mask: Mask, frame: Frame, eyes: Points | None, fade: float = 0.0, own: Mask | None = None, k: int = 1
    ) -> "Part":
        """The part of a picture's hole, without what is empty around it.

        Args:
            mask: of the picture.
            frame: of the part.
            eyes: see `Part`.
            fade: see `Part`.
            own: where the part lies, so many times (k) coarser; None is everywhere.
            k: see there.
        """
        top = left = 0
        if own is not None:
            ys, xs = np.flatnonzero(own.any(1)), np.flatnonzero(own.any(0))
            top, left = int(ys[0]) * k, int(xs[0]) * k
            mask = mask[top : (int(ys[-1]) + 1) * k, left : (int(xs[-1]) + 1) * k]
            rows, columns = (np.arange(length) // k for length in mask.shape)
            mask = mask & own[ys[0] + rows][:, xs[0] + columns]
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        area = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        return cls(frame, eyes, top + int(rows[0]), left + int(columns[0]), area, fade)


def expected(crop: Crop) -> Points | None:
    """Where a model's crop has the eyes, ``(2, 2)`` in parts of its square; None if it says nothing of eyes."""
    return None if crop.eyes is None or crop.side is None else np.array(crop.eyes) / crop.side


def aligned(eyes: Points, crop: Crop) -> Frame | None:
    """The square in which eyes, ``(2, 2)``, lie where a model's crop has them; None if it says nothing of eyes."""
    places = expected(crop)
    return None if places is None else Frame.of_eyes(eyes, places)


def divided(mask: Mask, eyes: Sequence[Points], size: int, crop: Crop) -> list[Part]:
    """The parts of a hole, each in the frame of its face; what lies in no face has squares of its own.

    A connected part belongs to the face whose aligned square holds most of it.

    Args:
        mask: with a hole.
        eyes: of the faces; without any, the whole hole is one part, in the square that `Crop.seen` names.
        size: of the model's square.
        crop: the model's.
    """
    height, width = mask.shape
    frames = [frame for frame in (aligned(pair, crop) for pair in eyes) if frame is not None]
    if not frames:
        return [Part.of(mask, square_around(mask, crop.seen(width, height)), None)]
    import cv2

    k = math.ceil(max(mask.shape) / COARSE)
    coarse = _reduced(mask, k)
    fades = [0.0] * len(frames)
    which, shared, rest = np.full(coarse.shape, -1), np.zeros_like(coarse), coarse
    while True:  # what lies too far from the face of its part is a part again
        _, labels = cv2.connectedComponents(rest.astype(np.uint8))
        ys, xs = rest.nonzero()
        points, label = (np.column_stack([xs, ys]) + 0.5) * k, labels[ys, xs]
        held = [np.bincount(label[_holds(frame, points)], minlength=labels.max() + 1) for frame in frames]
        owner = np.where(np.max(held, axis=0) > 0, np.argmax(held, axis=0), -1)[label]
        for number, frame in enumerate(frames):
            own = owner == number
            if not _holds(frame, points[own], GROWTH).all():
                own &= _holds(frame, points)
                fades[number] = BAND
                edge = own & ~_holds(frame, points, 1 - 2 * BAND - 4 * k / frame.side)
                shared[ys[edge], xs[edge]] = True
            which[ys[own], xs[own]] = number
        rest = coarse & (which < 0)
        if (owner < 0).all():
            break
    parts = [
        Part.of(mask, frame, None, own=own, k=k) for frame, own in _squares(rest | shared, k, size, (width, height))
    ]
    corners = np.array([[-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [0.5, 0.5]]) * k
    for number in sorted(set(which[which >= 0].tolist())):
        ys, xs = (which == number).nonzero()
        points = ((np.column_stack([xs, ys]) + 0.5) * k)[:, None] + corners
        frame = frames[number].holding(points.reshape(-1, 2))
        parts.append(Part.of(mask, frame, eyes[number], fades[number], which == number, k))
    return parts


def square_around(mask: Mask, preferred: tuple[int, int, int, int]) -> Frame:
    """The preferred square if it holds the whole hole, else the smallest move or growth of it that does.

    Args:
        mask: with a hole.
        preferred: (left, top, right, bottom) within the picture.
    """
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    left, right = int(columns[0]), int(columns[-1]) + 1
    side = max(preferred[2] - preferred[0], bottom - top, right - left)

    def place(start: int, low: int, high: int, length: int) -> int:
        start = min(max(start, high - side), low)  # the hole inside
        return (length - side) // 2 if side > length else min(max(start, 0), length - side)

    x, y = place(preferred[0], left, right, width), place(preferred[1], top, bottom, height)
    return Frame(x + side / 2, y + side / 2, side)


def _reduced(mask: Mask, k: int) -> Mask:
    """So many times smaller; a pixel is a hole if a part of it is."""
    rows = np.logical_or.reduceat(mask, np.arange(0, mask.shape[0], k), axis=0)
    return np.asarray(np.logical_or.reduceat(rows, np.arange(0, mask.shape[1], k), axis=1))


def _holds(frame: Frame, points: Points, scale: float = 1.0) -> NDArray[np.bool_]:
    """Whether points are in a frame that is made so many times larger around its middle."""
    return np.asarray((np.abs(frame.inside(points) - 0.5) <= scale / 2).all(1))


def _squares(hole: Mask, k: int, size: int, whole: tuple[int, int]) -> list[tuple[Frame, Mask]]:
    """Squares around what is left of a coarse hole, the largest first; each takes all that lies in it.

    Args:
        hole: so many (k) times smaller than the picture.
        k: see there.
        size: of the model's square: no square is smaller.
        whole: width and height of the picture.
    """
    import cv2

    _, labels, stats, _ = cv2.connectedComponentsWithStats(hole.astype(np.uint8))
    low, high = stats[:, :2] * k, np.minimum((stats[:, :2] + stats[:, 2:4]) * k, whole)
    left = np.arange(1, len(stats))  # number 0 is what is no hole
    squares: list[tuple[Frame, Mask]] = []
    while len(left):
        first = left[(high - low)[left].max(1).argmax()]
        held = left if len(squares) == MOST - 1 else [first]  # the last takes all the rest
        edges = low[held].min(0), high[held].max(0)
        extent = int((edges[1] - edges[0]).max())
        side = max(min(max(CONTEXT * extent, size), *whole), extent)
        start = [
            (length - side) / 2 if side > length else min(max((a + b - side) / 2, 0), length - side)
            for a, b, length in zip(*edges, whole, strict=True)
        ]
        inside = ((low[left] >= start) & (high[left] <= np.add(start, side))).all(1)
        inside |= left == first
        squares.append((Frame(start[0] + side / 2, start[1] + side / 2, side), np.isin(labels, left[inside])))
        left = left[~inside]
    return squares
