"""The way from a picture of any size to its filled copy: find the faces, align each, fill, and paste the hole alone.

Three steps, so that a service can fill between them: `cut`, any model at its own size, `paste`. `fill` is the model's.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from diffusion_lab import faces
from diffusion_lab.cascade import Model
from diffusion_lab.data.crops import Crop
from diffusion_lab.diffusion.sampling import Sampler
from diffusion_lab.frames import Frame, Pixels, Points
from diffusion_lab.pictures import from_pil, to_uint8
from diffusion_lab.restoration import STRIP, feathered, square_around
from diffusion_lab.tasks import Task, inpainting

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
FLAT = 8
"""A hole is erased if nine tenths of it are within so many levels of one colour."""


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
    fade: float = 0.0


@dataclass(frozen=True)
class Photo:
    """A picture that is to be filled, and what a model is shown of it.

    Args:
        pixels: ``(H, W, 3)`` uint8, the whole.
        mask: its hole.
        faces: the eyes of all its faces, each ``(2, 2)``, the most certain first.
        parts: of the hole, in the order in which they are pasted; together they are the whole of it.
        images: ``(P, 3, S, S)`` in [-1, 1], each part's square.
        holes: ``(P, 1, S, S)`` bool: the whole hole, as far as it lies in the square.
    """

    pixels: Pixels
    mask: Mask
    faces: tuple[Points, ...]
    parts: tuple[Part, ...]
    images: Tensor
    holes: Tensor

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.pixels.shape[1], self.pixels.shape[0]

    def within(self, side: int) -> "Photo":
        """The same photo, shrunk until its longer side is `side` at most: for previews."""
        scale = side / max(self.size)
        if scale >= 1:
            return self
        width, height = (max(1, round(length * scale)) for length in self.size)
        x, y = width / self.size[0], height / self.size[1]
        small = Image.fromarray(self.pixels).resize((width, height), Image.Resampling.BOX, reducing_gap=2.0)
        parts = []
        for part in self.parts:
            ys, xs = part.mask.nonzero()
            own = np.zeros((height, width), np.bool_)
            own[((ys + part.top) * y).astype(int), ((xs + part.left) * x).astype(int)] = True
            parts.append(_part(own, part.frame.scaled(scale), part.eyes, part.fade))
        mask = np.zeros((height, width), np.bool_)
        for part in parts:
            mask[part.top : part.top + len(part.mask), part.left : part.left + part.mask.shape[1]] |= part.mask
        return replace(self, pixels=np.asarray(small), mask=mask, parts=tuple(parts))


def cut(
    picture: Image.Image,
    mask: Tensor | None,
    size: int,
    crop: Crop,
    task: Task | None = None,
    eyes: Sequence[Points] | None = None,
) -> Photo:
    """Divides the hole among the faces of a picture, and cuts a square for each.

    Args:
        picture: RGB, upright, of any size.
        mask: ``(1, H, W)`` bool of the picture's size, True = hole; None for a task on the whole picture, which is made
            as large as the model's square if it is smaller.
        size: S, the model's.
        crop: that the model was trained on: where it expects the eyes. Of one that says nothing, nothing is aligned.
        task: of the model; None fills holes.
        eyes: of the faces to align, each ``(2, 2)`` in pixels of the picture; none of them: nothing is aligned; None:
            they are looked for, in the hole too, where the person's own photo often still lies.

    Raises:
        ValueError: for a mask of another size, or one without a hole, or with nothing else, or if there is one where
            none is wanted or none where one is.
    """
    task = task or inpainting()
    whole = mask is None
    if whole and max(picture.size) < size:
        scale = size / max(picture.size)
        larger = [max(1, round(side * scale)) for side in picture.size]
        picture = picture.resize((larger[0], larger[1]), Image.Resampling.BICUBIC)
    hole = _checked(picture, mask, task)
    picture = picture.convert("RGB")
    pixels = np.asarray(picture)
    shown = pixels if task.looks_inside else hidden(pixels, hole)
    if whole or crop.eyes is None:
        eyes = ()
    elif eyes is None:
        found = faces.find(Image.fromarray(shown) if erased(pixels, hole) else picture)
        eyes = [face.eyes for face in found]
    parts = divided(hole, eyes, size, crop)
    images = torch.stack([from_pil(Image.fromarray(part.frame.cut(shown, size))) for part in parts])
    holes = torch.stack([torch.from_numpy(part.frame.cut_hole(hole, size))[None] for part in parts])
    return Photo(pixels, hole, tuple(eyes), tuple(parts), images, holes)


def paste(photo: Photo, filled: Tensor, feather: int = 0) -> Image.Image:
    """The whole picture with its hole filled; every known pixel keeps its value.

    Args:
        photo: what the model was shown.
        filled: ``(P, 3, S, S)`` in [-1, 1], what it made of each part.
        feather: pixels inside the hole over which the filling fades in from its border.
    """
    result = photo.pixels.copy()
    reach = feather + 1
    for part, square in zip(photo.parts, filled, strict=True):
        spread = part.frame.spread(to_uint8(square).permute(1, 2, 0).cpu().numpy())
        left, right = part.left, part.left + part.mask.shape[1]
        for row in range(0, len(part.mask), STRIP):
            own = part.mask[row : row + STRIP]
            top, bottom = part.top + row, part.top + row + len(own)
            place = result[top:bottom, left:right]
            made = spread.part(left, top, right, bottom)
            share: Any = 1.0
            if part.fade:
                share = _fading(part, row, own)
            if feather:
                above, before = max(0, top - reach), max(0, left - reach)
                around = torch.from_numpy(photo.mask[above : bottom + reach, before : right + reach])
                weight = feathered(around[None], feather)[0, top - above :, left - before :]
                share = share * weight[: bottom - top, : right - left, None].numpy()
            if feather or part.fade:
                made = np.rint(place + (made.astype(np.float32) - place) * share).astype(np.uint8)
            place[own] = made[own]
    return Image.fromarray(result)


def fill(
    model: Model,
    photo: Photo,
    seeds: Sequence[int],
    sampler: Sampler | None = None,
    feather: int = 0,
    attributes: Mapping[str, float] | None = None,
) -> list[Image.Image]:
    """Fills the hole of a photo once per seed; known pixels keep their values.

    Args:
        model: on any device.
        photo: cut for it.
        seeds: one per completion.
        sampler: None is the model's own.
        feather: as in `paste`.
        attributes: what the faces shall be like, as `Inpainter.attributes` is told it; None says nothing.

    Raises:
        ValueError: as `Inpainter.attributes` does, and without a seed.
    """
    if not seeds:
        raise ValueError("no completion was asked for: num_samples must be 1 or more")
    told = model.attributes(attributes) if attributes else None
    device = next(model.parameters(), torch.empty(0)).device
    completed = []
    for number in range(len(photo.parts)):
        image, hole = (x[number].to(device).expand(len(seeds), -1, -1, -1) for x in (photo.images, photo.holes))
        wanted = None if told is None else told.to(device).expand(len(seeds), -1)
        drawn = part_seeds(seeds, number)
        completed.append(model(image, hole, seeds=drawn, sampler=sampler, attributes=wanted).cpu())
    return [paste(photo, filled, feather) for filled in torch.stack(completed, dim=1)]


def part_seeds(seeds: Sequence[int], part: int) -> list[int]:
    """The seeds of a part's noise: the first one's own, and a hash for the others, lest two faces be twins.

    Example:
        >>> part_seeds([7, 8], 0), part_seeds([7], 1)[0] == part_seeds([6, 7], 1)[1] != 7
        ([7, 8], True)
    """
    if part == 0:
        return [*seeds]
    # The second 0 tells it from the seeds of a cascade's stages.
    return [int(np.random.SeedSequence((seed, 0, part)).generate_state(1, np.uint64)[0] >> 1) for seed in seeds]


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
    if not eyes or crop.eyes is None or crop.side is None:
        square = square_around(torch.from_numpy(mask)[None], crop.seen(width, height))
        middle = square.left + square.side / 2, square.top + square.side / 2
        return [_part(mask, Frame(*middle, square.side), None)]
    import cv2

    k = math.ceil(max(mask.shape) / COARSE)
    coarse = _reduced(mask, k)
    frames = [Frame.of_eyes(pair, np.array(crop.eyes) / crop.side) for pair in eyes]
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
    parts = [_part(mask, frame, None, own=own, k=k) for frame, own in _squares(rest | shared, k, size, (width, height))]
    corners = np.array([[-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [0.5, 0.5]]) * k
    for number in sorted(set(which[which >= 0].tolist())):
        ys, xs = (which == number).nonzero()
        points = ((np.column_stack([xs, ys]) + 0.5) * k)[:, None] + corners
        frame = frames[number].holding(points.reshape(-1, 2))
        parts.append(_part(mask, frame, eyes[number], fades[number], which == number, k))
    return parts


def hidden(pixels: Pixels, mask: Mask) -> Pixels:
    """A copy with the hole in the colours around it: what lay there is not looked at, nor does it ring beyond."""
    import cv2

    height, width = mask.shape
    result = pixels.copy()
    result[mask] = 0
    scale = min(1.0, 192 / max(mask.shape))
    small = max(1, round(width * scale)), max(1, round(height * scale))
    sums = np.asarray(Image.fromarray(result).resize(small, Image.Resampling.BOX), np.float32)
    known = np.where(mask, np.uint8(0), np.uint8(255))
    share = np.asarray(Image.fromarray(known).resize(small, Image.Resampling.BOX), np.float32)[..., None] / 255
    colours = (sums / share.clip(min=0.1)).clip(0, 255).round().astype(np.uint8)
    colours = cv2.inpaint(colours, (share[..., 0] < 0.1).astype(np.uint8), 3, cv2.INPAINT_NS)
    spread = Image.fromarray(colours)
    for top in range(0, height, STRIP):
        own = mask[top : top + STRIP]
        if own.any():
            box = (0, top * small[1] / height, small[0], (top + len(own)) * small[1] / height)
            strip = np.asarray(spread.resize((width, len(own)), Image.Resampling.BILINEAR, box=box))
            result[top : top + STRIP][own] = strip[own]
    return result


def erased(pixels: Pixels, mask: Mask) -> bool:
    """Whether the hole is of one colour, so that what lay there cannot help to find a face."""
    values = pixels[mask]
    values = values[:: max(1, len(values) // 10_000)].astype(np.int16)
    return bool((np.abs(values - np.median(values, axis=0)).max(1) <= FLAT).mean() >= 0.9)


def _checked(picture: Image.Image, mask: Tensor | None, task: Task) -> Mask:
    width, height = picture.size
    hole = task.region(mask, height, width)
    if hole.shape[-2:] != (height, width):
        raise ValueError(
            f"the mask is {hole.shape[-1]}x{hole.shape[-2]} and the image {width}x{height}: make them of one size"
        )
    if not bool(hole.any()):
        raise ValueError("the mask is black all over, so there is nothing to fill: paint the hole white")
    if bool(hole.all()) and mask is not None:
        raise ValueError("the mask is white all over, so nothing of the face is known: leave some of it black")
    return hole[0].cpu().numpy()


def _part(
    mask: Mask, frame: Frame, eyes: Points | None, fade: float = 0.0, own: Mask | None = None, k: int = 1
) -> Part:
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
    return Part(frame, eyes, top + int(rows[0]), left + int(columns[0]), area, fade)


def _fading(part: Part, row: int, own: Mask) -> NDArray[np.float32]:
    """Weights of a part's filling over some of its rows, ``(h, w, 1)``: 0 at the frame's border, 1 deep in it."""
    ys, xs = np.mgrid[: own.shape[0], : own.shape[1]]
    points = np.column_stack([xs.ravel() + part.left, ys.ravel() + part.top + row]) + 0.5
    within = part.frame.inside(points)
    depth = np.minimum(within, 1 - within).min(1) / part.fade
    return np.asarray(depth.clip(0, 1).reshape(*own.shape, 1), np.float32)


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
        side = max(min(max(CONTEXT * extent, size), *(min(whole),) * 2), extent)
        start = [
            (length - side) / 2 if side > length else min(max((a + b - side) / 2, 0), length - side)
            for a, b, length in zip(*edges, whole, strict=True)
        ]
        inside = ((low[left] >= start) & (high[left] <= np.add(start, side))).all(1)
        inside |= left == first
        squares.append((Frame(start[0] + side / 2, start[1] + side / 2, side), np.isin(labels, left[inside])))
        left = left[~inside]
    return squares
