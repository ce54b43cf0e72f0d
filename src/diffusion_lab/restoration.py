"""Pictures of any size: cut a square around the hole, fill it at the model's size, and paste the hole alone back."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from diffusion_lab.cascade import Model
from diffusion_lab.data.crops import Crop, named
from diffusion_lab.diffusion.sampling import Sampler
from diffusion_lab.pictures import from_pil, to_pil, to_uint8
from diffusion_lab.tasks import Task, inpainting

STRIP = 256
"""Rows of a picture that are floats at a time: as a whole a phone's photo would be 300 MB."""


@dataclass(frozen=True)
class Square:
    """A square of a picture, which may reach beyond its edges: (left, top) and side, in pixels."""

    left: int
    top: int
    side: int

    def cut(self, x: Tensor) -> Tensor:
        """The square of ``(C, H, W)``; beyond the edges their pixels are repeated."""
        height, width = x.shape[-2:]
        rows = torch.arange(self.top, self.top + self.side).clamp(0, height - 1)
        columns = torch.arange(self.left, self.left + self.side).clamp(0, width - 1)
        return x[:, rows][:, :, columns]


def square_around(mask: Tensor, preferred: tuple[int, int, int, int]) -> Square:
    """The preferred square if it holds the whole hole, else the smallest move or growth of it that does.

    Args:
        mask: ``(1, H, W)`` bool with a hole.
        preferred: (left, top, right, bottom) within the picture.
    """
    height, width = mask.shape[-2:]
    rows, columns = mask[0].any(1).nonzero(), mask[0].any(0).nonzero()
    top, bottom = int(rows.min()), int(rows.max()) + 1
    left, right = int(columns.min()), int(columns.max()) + 1
    side = max(preferred[2] - preferred[0], bottom - top, right - left)

    def place(start: int, low: int, high: int, length: int) -> int:
        start = min(max(start, high - side), low)  # the hole inside
        return (length - side) // 2 if side > length else min(max(start, 0), length - side)

    return Square(place(preferred[0], left, right, width), place(preferred[1], top, bottom, height), side)


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
    return torch.where(shrunk > 0, 1.0, weight)[0] * inside[0]


@dataclass(frozen=True)
class Cut:
    """What the model is shown of a picture, and where it came from.

    Args:
        image: ``(3, S, S)`` in [-1, 1], the square at the model's size.
        hole: ``(1, S, S)`` bool.
        pixels: ``(H, W, 3)`` uint8, the whole picture.
        mask: ``(1, H, W)`` bool, its hole.
        square: where it was cut.
    """

    image: Tensor
    hole: Tensor
    pixels: NDArray[np.uint8]
    mask: Tensor
    square: Square

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the whole picture."""
        return self.pixels.shape[1], self.pixels.shape[0]

    def within(self, side: int) -> "Cut":
        """The same cut of a picture that was shrunk until its longer side is `side` at most: for previews."""
        width, height = self.size
        scale = side / max(width, height)
        if scale >= 1:
            return self
        small = max(1, round(width * scale)), max(1, round(height * scale))
        pixels = np.array(Image.fromarray(self.pixels).resize(small, Image.Resampling.BOX, reducing_gap=2.0))
        mask = F.adaptive_max_pool2d(self.mask[None].float(), small[::-1])[0] > 0
        left, top, side = self.square.left, self.square.top, self.square.side
        # Outwards, so that the square still holds the hole.
        square = Square(math.floor(left * scale), math.floor(top * scale), math.ceil(side * scale) + 1)
        return Cut(self.image, self.hole, pixels, mask, square)


def cut_out(picture: Image.Image, mask: Tensor | None, size: int, crop: Crop, task: Task | None = None) -> Cut:
    """The square around the hole, at the model's size.

    Args:
        picture: RGB, of any size.
        mask: ``(1, H, W)`` bool of the picture's size, True = hole; None for a task on the whole picture, which is made
            as large as the model's square if it is smaller.
        size: S, the model's.
        crop: that the model was trained on; see `Crop.seen`.
        task: of the model; None fills holes.

    Raises:
        ValueError: for a mask of another size, or one without a hole, or with nothing else, or if there is one where
            none is wanted or none where one is.
    """
    whole = mask is None
    if whole and max(picture.size) < size:
        scale = size / max(picture.size)
        larger = [max(1, round(side * scale)) for side in picture.size]
        picture = picture.resize((larger[0], larger[1]), Image.Resampling.BICUBIC)
    width, height = picture.size
    mask = (task or inpainting()).region(mask, height, width)
    if mask.shape[-2:] != (height, width):
        raise ValueError(
            f"the mask is {mask.shape[-1]}x{mask.shape[-2]} and the image {width}x{height}: make them of one size"
        )
    if not bool(mask.any()):
        raise ValueError("the mask is black all over, so there is nothing to fill: paint the hole white")
    if bool(mask.all()) and not whole:
        raise ValueError("the mask is white all over, so nothing of the face is known: leave some of it black")
    square = square_around(mask, crop.seen(width, height))
    pixels = np.array(picture.convert("RGB"))

    seen = square.cut(torch.from_numpy(pixels).permute(2, 0, 1)).permute(1, 2, 0).numpy()
    image = from_pil(Image.fromarray(seen).resize((size, size), Image.Resampling.LANCZOS))
    hole = square.cut(mask)[None].float()
    hole = F.adaptive_max_pool2d(hole, size) > 0 if square.side >= size else F.interpolate(hole, size) > 0
    return Cut(image, hole[0], pixels, mask, square)


def paste_back(cut: Cut, filled: Tensor, feather: int = 0) -> Image.Image:
    """The whole picture with its hole filled; every known pixel keeps its value.

    Args:
        cut: what the model was shown.
        filled: ``(3, S, S)`` in [-1, 1], what it made of it.
        feather: pixels inside the hole over which the filling fades in from its border.
    """
    square = cut.square
    rows, columns = cut.mask[0].any(1).nonzero(), cut.mask[0].any(0).nonzero()
    top, bottom = max(int(rows.min()), square.top), min(int(rows.max()) + 1, square.top + square.side)
    left, right = max(int(columns.min()), square.left), min(int(columns.max()) + 1, square.left + square.side)
    # One pixel around the hole tells the feather where it begins.
    above, before = min(top, 1), min(left, 1)
    weight = feathered(cut.mask[:, top - above : bottom + 1, left - before : right + 1], feather)
    weight = weight[:, above : above + bottom - top, before : before + right - left]
    within = (left - square.left, top - square.top, right - square.left, bottom - square.top)
    large = to_pil(filled).resize((square.side, square.side), Image.Resampling.LANCZOS).crop(within)
    result = cut.pixels.copy()
    for row in range(0, bottom - top, STRIP):
        part = large.crop((0, row, right - left, min(row + STRIP, bottom - top)))
        place = result[top + row : top + row + part.height, left:right]
        known, share = from_pil(Image.fromarray(place)), weight[:, row : row + part.height]
        pasted = torch.where(share > 0, torch.lerp(known, from_pil(part), share), known)
        place[:] = to_uint8(pasted).permute(1, 2, 0).numpy()
    return Image.fromarray(result)


def restore(
    inpainter: Model,
    picture: Image.Image,
    mask: Tensor | None,
    seeds: Sequence[int],
    sampler: Sampler | None = None,
    feather: int = 0,
    attributes: Mapping[str, float] | None = None,
) -> list[Image.Image]:
    """Fills the hole of a picture of any size, or restores the whole, once per seed; known pixels keep their values.

    Args:
        inpainter: on any device; at its own size, and shown what its recipe's crop shows of a face.
        picture: RGB.
        mask: ``(1, H, W)`` bool of the picture's size, True = hole; None if the model's task is the whole picture.
        seeds: one per completion.
        sampler: None is the inpainter's own.
        feather: as in `paste_back`.
        attributes: what the face shall be like, as `Inpainter.attributes` is told it; None says nothing.

    Raises:
        ValueError: as `cut_out` and `Inpainter.attributes` do, and without a seed.
    """
    if not seeds:
        raise ValueError("no completion was asked for: num_samples must be 1 or more")
    told = inpainter.attributes(attributes) if attributes else None
    data = inpainter.recipe["data"]
    cut = cut_out(picture, mask, int(data["image_size"]), named(data["crop"]), inpainter.task)
    device = next(inpainter.parameters(), torch.empty(0)).device
    image, hole = (x.to(device).expand(len(seeds), -1, -1, -1) for x in (cut.image, cut.hole))
    wanted = None if told is None else told.to(device).expand(len(seeds), -1)
    completed = inpainter(image, hole, seeds=seeds, sampler=sampler, attributes=wanted)
    return [paste_back(cut, filled, feather) for filled in completed.cpu()]
