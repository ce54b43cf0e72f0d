"""The way from a picture of any size to its filled copy: find the faces, align each, fill, and paste the hole alone.

Three steps, so that a service can fill between them: `cut`, any model at its own size, `finish`. `fill` is all but the
first. `paste` alone is for pictures on the way, which may have seams.
"""

import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from diffusion_lab.cascade import Model, reduced
from diffusion_lab.data.crops import Crop
from diffusion_lab.diffusion.sampling import Sampler
from diffusion_lab.frames import Pixels, Points
from diffusion_lab.photo import faces
from diffusion_lab.photo.parts import Mask, Part, divided
from diffusion_lab.photo.seams import closed
from diffusion_lab.photo.tones import Tone, tone
from diffusion_lab.pictures import from_pil, to_uint8
from diffusion_lab.tasks import Task, inpainting

STRIP = 256
"""Rows of a picture that are floats at a time: as a whole a phone's photo would be 300 MB."""
ENOUGH = 2 / 3
"""Of a part's width in the photo: a square that has so many pixels is large enough."""
FLAT = 8
"""A hole is erased if nine tenths of it are within so many levels of one colour."""


@dataclass(frozen=True)
class Photo:
    """A picture that is to be filled, and what a model is shown of it.

    Args:
        pixels: ``(H, W, 3)`` uint8, the whole.
        mask: its hole.
        faces: the eyes of all its faces, each ``(2, 2)``, the most certain first; None if none were looked for.
        parts: of the hole, in the order in which they are pasted; together they are the whole of it.
        images: ``(P, 3, S, S)`` in [-1, 1], each part's square, a face's lit as faces usually are.
        holes: ``(P, 1, S, S)`` bool: the whole hole, as far as it lies in the square.
        tones: of the parts, how they were lit.
    """

    pixels: Pixels
    mask: Mask
    faces: tuple[Points, ...] | None
    parts: tuple[Part, ...]
    images: Tensor
    holes: Tensor
    tones: tuple[Tone, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.pixels.shape[1], self.pixels.shape[0]

    @property
    def used(self) -> tuple[Points, ...]:
        """The eyes of the faces in which something is filled."""
        return tuple(part.eyes for part in self.parts if part.eyes is not None)

    def within(self, side: int) -> "Photo":
        """The same photo, shrunk until its longer side is `side` at most: for previews."""
        scale = side / max(self.size)
        if scale >= 1:
            return self
        width, height = (max(1, round(length * scale)) for length in self.size)
        small = Image.fromarray(self.pixels).resize((width, height), Image.Resampling.BOX, reducing_gap=2.0)
        parts = []
        for part in self.parts:
            ys, xs = part.mask.nonzero()
            own = np.zeros((height, width), np.bool_)
            own[(ys + part.top) * height // self.size[1], (xs + part.left) * width // self.size[0]] = True
            parts.append(Part.of(own, part.frame.scaled(scale), part.eyes, part.fade))
        mask = np.zeros((height, width), np.bool_)
        for part in parts:
            mask[part.top : part.top + len(part.mask), part.left : part.left + part.mask.shape[1]] |= part.mask
        return replace(self, pixels=np.asarray(small), mask=mask, parts=tuple(parts))


def cut(
    picture: Image.Image,
    mask: Tensor | None,
    sides: Sequence[int],
    crop: Crop,
    task: Task | None = None,
    eyes: Sequence[Points] | None = None,
    detail: int = 512,
) -> Photo:
    """Divides the hole among the faces of a picture, and cuts a square for each.

    Args:
        picture: RGB, upright, of any size.
        mask: ``(1, H, W)`` bool of the picture's size, True = hole; None for a task on the whole picture, which is made
            as large as the model's smallest square if it is smaller.
        sides: of the squares that the model fills, the smallest first. S is the least of them that shows the widest
            part of the hole's frame as sharp as the photo has it, or nearly (see `ENOUGH`).
        crop: that the model was trained on: where it expects the eyes. Of one that says nothing, nothing is aligned.
        task: of the model; None fills holes.
        eyes: of the faces to align, each ``(2, 2)`` in pixels of the picture; none of them: nothing is aligned; None:
            they are looked for, in the hole too, where the person's own photo often still lies.
        detail: pixels; no larger side is taken, except for the smallest.

    Raises:
        ValueError: for a mask of another size, or one without a hole, or with nothing else, or if there is one where
            none is wanted or none where one is.
    """
    task = task or inpainting()
    whole, size = mask is None, sides[0]
    if whole and max(picture.size) < size:
        scale = size / max(picture.size)
        width, height = (round(side * scale) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    hole = _checked(picture, mask, task)
    picture = picture.convert("RGB")
    pixels = np.asarray(picture)
    shown = pixels if whole or task.looks_inside else hidden(pixels, hole)
    found: tuple[Points, ...] | None = None
    if not whole and crop.eyes is not None and (eyes is None or len(eyes) > 0):
        if eyes is None:
            seen = faces.find(Image.fromarray(shown) if erased(pixels, hole) else picture)
            eyes = [face.eyes for face in seen]
        found = tuple(eyes)
    parts = divided(hole, found or (), size, crop)
    widest = max(part.frame.side for part in parts)
    offered = [size, *(side for side in sides[1:] if side <= detail)]
    side = next((side for side in offered if side >= ENOUGH * widest), offered[-1])
    images = torch.stack([from_pil(Image.fromarray(part.frame.cut(shown, side))) for part in parts])
    holes = torch.stack([torch.from_numpy(part.frame.cut_hole(hole, side))[None] for part in parts])
    tones = [
        tone(image, missing) if part.eyes is not None else Tone()  # of a wall nobody knows how it is usually lit
        for part, image, missing in zip(parts, images, holes, strict=True)
    ]
    images = torch.stack([its.lit(image) for its, image in zip(tones, images, strict=True)])
    return Photo(pixels, hole, found, tuple(parts), images, holes, tuple(tones))


def paste(photo: Photo, filled: Tensor, feather: int = 0) -> Image.Image:
    """The whole picture with its hole filled; every known pixel keeps its value.

    Args:
        photo: what the model was shown.
        filled: ``(P, 3, s, s)`` in [-1, 1], of any side, what it made of each part.
        feather: pixels inside the hole over which the filling fades in from its border.
    """
    result = photo.pixels.copy()
    for part, its, square in zip(photo.parts, photo.tones, filled, strict=True):
        spread = part.frame.spread(to_uint8(its.unlit(square)).permute(1, 2, 0).cpu().numpy())
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
                above, before = max(0, top - feather), max(0, left - feather)
                around = torch.from_numpy(photo.mask[above : bottom + feather, before : right + feather])
                weight = feathered(around[None], feather)[0, top - above :, left - before :]
                share = share * weight[: bottom - top, : right - left, None].numpy()
            if feather or part.fade:
                made = np.rint(place + (made.astype(np.float32) - place) * share).astype(np.uint8)
            place[own] = made[own]
    return Image.fromarray(result)


def finish(photo: Photo, filled: Tensor, feather: int = 0) -> Image.Image:
    """The result: what a model made, its seams closed (`seams.closed`), in the whole picture.

    Args:
        photo: what the model was shown.
        filled: ``(P, 3, s, s)`` in [-1, 1]; s may be a divisor of the squares' side.
        feather: as in `paste`.
    """
    images, holes = reduced(photo.images, photo.holes, photo.images.shape[-1] // filled.shape[-1])
    return paste(photo, closed(filled, images, holes), feather)


def fill(
    model: Model,
    photo: Photo,
    seeds: Sequence[int],
    sampler: Sampler | None = None,
    feather: int = 0,
    attributes: Mapping[str, float] | None = None,
    look: Callable[[int, Tensor], None] | None = None,
) -> list[Image.Image]:
    """Fills the hole of a photo once per seed; known pixels keep their values.

    Args:
        model: on any device.
        photo: cut for it.
        seeds: one per completion.
        sampler: None is the model's own.
        feather: as in `paste`.
        attributes: what the faces shall be like, as `Inpainter.attributes` is told it; None says nothing.
        look: told after every network call, which part is filled and what of it is seen, ``(n, 3, S, S)`` in [-1, 1].

    Raises:
        ValueError: as `Inpainter.attributes` does, and without a seed.
    """
    if not seeds:
        raise ValueError("no completion was asked for: num_samples must be 1 or more")
    told = model.attributes(attributes) if attributes else None
    device = next(model.parameters(), torch.tensor(())).device
    completed = []
    for number in range(len(photo.parts)):
        image, hole = (x[number].to(device).expand(len(seeds), -1, -1, -1) for x in (photo.images, photo.holes))
        wanted = None if told is None else told.to(device).expand(len(seeds), -1)
        drawn = part_seeds(seeds, number)
        told_of = None if look is None else partial(look, number)
        completed.append(model(image, hole, seeds=drawn, sampler=sampler, attributes=wanted, look=told_of).cpu())
    return [finish(photo, filled, feather) for filled in torch.stack(completed, dim=1)]


def eyes_of(align: Any, size: tuple[int, int] | None = None) -> Sequence[Points] | None:
    """What `cut` is told of a setting ``align``: auto, off, or two points [[x, y], [x, y]].

    Args:
        align: the setting.
        size: width and height of the picture, if the points are to be in it, or no farther from it than half of its
            longer side.

    Raises:
        ValueError: for anything else.

    Examples:
        >>> eyes_of("auto"), eyes_of("off")
        (None, ())
        >>> eyes_of([[30, 40], [50, 40]])[0].tolist()
        [[30.0, 40.0], [50.0, 40.0]]
    """
    if isinstance(align, str) and align in ("auto", "off"):
        return None if align == "auto" else ()
    pairs = _is_pair(align) and all(_is_pair(point) for point in align)
    numbers = [number for point in align for number in point] if pairs else []
    sound = pairs and all(type(number) in (int, float) and abs(number) < 1e9 for number in numbers)  # and not NaN
    points = np.array(align, np.float64) if sound else None
    if points is None or np.ptp(points, axis=0).max() < 1:
        said = align[:100] if isinstance(align, str) else reprlib.repr(align)
        raise ValueError(
            f"align={said} must be auto, off, or both eyes as one looks at the picture, in pixels: [[x,y],[x,y]]"
        )
    if size is not None and (np.abs(points - np.array(size) / 2) > np.array(size) / 2 + max(size) / 2).any():
        raise ValueError(f"align={align} lies far outside of the picture, which is {size[0]}x{size[1]} pixels")
    return [points]


def _is_pair(value: object) -> bool:
    return isinstance(value, Sequence) and len(value) == 2


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


def hidden(pixels: Pixels, mask: Mask) -> Pixels:
    """A copy with the hole in the colours around it: what lay there is not looked at, nor does it ring beyond."""
    import cv2

    height, width = mask.shape
    result = pixels.copy()
    result[mask] = 0
    scale = min(1.0, 192 / max(mask.shape))
    # Two at least: of a single row OpenCV reads what lies beside it in memory.
    small = max(2, round(width * scale)), max(2, round(height * scale))
    sums = np.asarray(Image.fromarray(result).resize(small, Image.Resampling.BOX), np.float32)
    known = np.where(mask, np.uint8(0), np.uint8(255))
    share = np.asarray(Image.fromarray(known).resize(small, Image.Resampling.BOX), np.float32)[..., None] / 255
    colours = (sums / share.clip(min=0.1)).round().astype(np.uint8)  # none above 255, as share is of 255
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


def feathered(mask: Tensor, width: int) -> Tensor:
    """Weights of the filling, ``(1, H, W)``: 1 deep in the hole, falling towards its border *inside* it, 0 outside.

    Args:
        mask: ``(1, H, W)`` bool.
        width: of the fall in pixels; 0 is a hard edge.
    """
    inside = mask[None].float()
    weight = inside.clone()
    shrunk = inside
    for step in range(width):
        weight = torch.where((shrunk > 0), torch.full_like(weight, (step + 1) / (width + 1)), weight)
        shrunk = -F.max_pool2d(-F.pad(shrunk, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return torch.where(shrunk > 0, 1.0, weight)[0]


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


def _fading(part: Part, row: int, own: Mask) -> NDArray[np.float32]:
    """Weights of a part's filling over some of its rows, ``(h, w, 1)``: 0 at the frame's border, 1 deep in it."""
    ys, xs = np.mgrid[: own.shape[0], : own.shape[1]]
    points = np.column_stack([xs.ravel() + part.left, ys.ravel() + part.top + row]) + 0.5
    within = part.frame.inside(points)
    depth = np.minimum(within, 1 - within).min(1) / part.fade
    return np.asarray(depth.clip(0, 1).reshape(*own.shape, 1), np.float32)
