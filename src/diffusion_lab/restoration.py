"""Pictures of any size: cut a square around the hole, fill it at the model's size, and paste the hole alone back."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

from diffusion_lab.diffusion.sampling import Sampler
from diffusion_lab.inpainting import Inpainter
from diffusion_lab.pictures import from_pil, to_pil

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
MOST_PIXELS = 64_000_000


def opened(source: Path | bytes, what: str) -> Image.Image:
    """A still picture from a file or from bytes, upright, checked before it is decoded.

    Args:
        source: path or content.
        what: how errors call it, such as "image".

    Raises:
        ValueError: if it is not a picture, or too large, or animated, or truncated.
        FileNotFoundError: if there is no such file.
    """
    named = f"{what}={source}" if isinstance(source, Path) else f"the {what}"
    if isinstance(source, Path) and not source.is_file():
        raise FileNotFoundError(f"{named} does not exist: name a {'/'.join(FORMATS[:3])} file")
    try:
        picture = Image.open(source if isinstance(source, Path) else io.BytesIO(source), formats=FORMATS)
        if picture.width * picture.height > MOST_PIXELS:
            raise ValueError(
                f"{named} is {picture.width}x{picture.height}, more than {MOST_PIXELS // 1_000_000} megapixels"
            )
        if getattr(picture, "n_frames", 1) > 1:
            raise ValueError(f"{named} is animated: name a still picture")
        picture.load()
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{named} cannot be read as a {'/'.join(FORMATS[:3])} picture ({error})") from None
    return ImageOps.exif_transpose(picture)


def as_rgb(picture: Image.Image) -> Image.Image:
    """RGB, transparent parts on white, 16-bit grey scaled to 8."""
    if picture.mode.startswith("I;16") or picture.mode in ("I", "F"):
        grey = np.asarray(picture).astype(np.float64)
        return Image.fromarray((grey * (255 / 65535)).round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        clear = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")
    return picture.convert("RGB")


def as_mask(picture: Image.Image) -> Tensor:
    """``(1, H, W)`` bool: white is the hole, from middle grey on."""
    return torch.from_numpy(np.array(as_rgb(picture).convert("L")) > 127)[None]


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


def restore(
    inpainter: Inpainter,
    picture: Image.Image,
    mask: Tensor,
    seeds: Sequence[int],
    preferred: tuple[int, int, int, int] | None = None,
    sampler: Sampler | None = None,
    feather: int = 0,
) -> list[Image.Image]:
    """Fills the hole of a picture of any size, once per seed; every known pixel keeps its value.

    Args:
        inpainter: at its own size, which its recipe names.
        picture: RGB.
        mask: ``(1, H, W)`` bool of the picture's size, True = hole.
        seeds: one per completion.
        preferred: (left, top, right, bottom) of the square the model should see; None is the largest in the centre.
        sampler: None is the inpainter's own.
        feather: pixels inside the hole over which the filling fades in from its border.

    Raises:
        ValueError: for a mask of another size, or one without a hole.
    """
    width, height = picture.size
    if mask.shape[-2:] != (height, width):
        raise ValueError(
            f"the mask is {mask.shape[-1]}x{mask.shape[-2]} and the image {width}x{height}: make them of one size"
        )
    if not bool(mask.any()):
        raise ValueError("the mask is black all over, so there is nothing to fill: paint the hole white")
    if bool(mask.all()):
        raise ValueError("the mask is white all over, so nothing of the face is known: leave some of it black")
    side = min(width, height)
    centred = ((width - side) // 2, (height - side) // 2, (width + side) // 2, (height + side) // 2)
    square = square_around(mask, preferred or centred)
    size = int(inpainter.recipe["data"]["image_size"])
    full = from_pil(picture)

    seen = from_pil(to_pil(square.cut(full)).resize((size, size), Image.Resampling.LANCZOS))
    hole = square.cut(mask)[None].float()
    hole = F.adaptive_max_pool2d(hole, size) > 0 if square.side >= size else F.interpolate(hole, size) > 0
    count = len(seeds)
    filled = inpainter(seen.expand(count, -1, -1, -1), hole.expand(count, -1, -1, -1), seeds=seeds, sampler=sampler)

    weight = feathered(mask, feather)
    results = []
    for small in filled:
        large = from_pil(to_pil(small).resize((square.side, square.side), Image.Resampling.LANCZOS))
        canvas = full.clone()
        # The part of the square that lies within the picture.
        top, left = max(square.top, 0), max(square.left, 0)
        bottom, right = min(square.top + square.side, height), min(square.left + square.side, width)
        canvas[:, top:bottom, left:right] = large[
            :, top - square.top : bottom - square.top, left - square.left : right - square.left
        ]
        results.append(to_pil(torch.where(weight > 0, torch.lerp(full, canvas, weight), full)))
    return results
