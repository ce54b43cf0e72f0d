"""Pictures of any size: cut a square around the hole, fill it at the model's size, and paste the hole alone back."""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

from diffusion_lab.data.crops import Crop, named
from diffusion_lab.diffusion.sampling import Sampler
from diffusion_lab.inpainting import Inpainter
from diffusion_lab.pictures import from_pil, to_pil, to_uint8

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
MOST_PIXELS = 64_000_000
STRIP = 256
"""Rows of a picture that are floats at a time: as a whole a phone's photo would be 300 MB."""


def opened(
    source: Path | bytes, what: str, most_pixels: int = MOST_PIXELS, formats: tuple[str, ...] = FORMATS
) -> Image.Image:
    """A still picture from a file or from bytes, upright, checked before it is decoded.

    Args:
        source: path or content.
        what: how errors call it, such as "image".
        most_pixels: more are refused.
        formats: Pillow's names of those that are read.

    Raises:
        TooLarge: if it has too many pixels.
        ValueError: if it is not a picture, or animated, or truncated.
        FileNotFoundError: if there is no such file.
    """
    named = f"{what}={source}" if isinstance(source, Path) else f"the {what}"
    if isinstance(source, Path) and not source.is_file():
        raise FileNotFoundError(f"{named} does not exist: name a {'/'.join(formats[:3])} file")
    with readable(named, formats):
        content = source.read_bytes() if isinstance(source, Path) else source  # no file stays open behind an error
        picture = Image.open(io.BytesIO(content), formats=formats)
        # A phone's MPO is a JPEG with a depth map or a second view behind it: the first frame is the photo.
        frames = 1 if picture.format == "MPO" else getattr(picture, "n_frames", 1)
    if picture.width * picture.height > most_pixels:
        raise TooLarge(f"{named} is {picture.width}x{picture.height}, more than {most_pixels / 1e6:.3g} megapixels")
    if frames > 1:
        raise ValueError(f"{named} is animated: name a still picture")
    with readable(named, formats):
        picture.load()
        return ImageOps.exif_transpose(picture)


class TooLarge(ValueError):
    """A picture has more pixels than may be decoded."""


@contextmanager
def readable(named: str, formats: tuple[str, ...]) -> Iterator[None]:
    """Says in a sentence what Pillow makes of a damaged file, for which it raises nearly anything."""
    try:
        yield
    except Image.DecompressionBombError:
        raise TooLarge(f"{named} has more pixels than can be read") from None
    except Exception as error:
        reason = "it is another kind of file" if isinstance(error, UnidentifiedImageError) else error
        raise ValueError(f"{named} cannot be read as a {'/'.join(formats[:3])} picture ({reason})") from None


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


def cut_out(picture: Image.Image, mask: Tensor, size: int, crop: Crop) -> Cut:
    """The square around the hole, at the model's size.

    Args:
        picture: RGB, of any size.
        mask: ``(1, H, W)`` bool of the picture's size, True = hole.
        size: S, the model's.
        crop: that the model was trained on; see `Crop.seen`.

    Raises:
        ValueError: for a mask of another size, or one without a hole, or with nothing else.
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
    inpainter: Inpainter,
    picture: Image.Image,
    mask: Tensor,
    seeds: Sequence[int],
    sampler: Sampler | None = None,
    feather: int = 0,
    attributes: Mapping[str, float] | None = None,
) -> list[Image.Image]:
    """Fills the hole of a picture of any size, once per seed; every known pixel keeps its value.

    Args:
        inpainter: on any device; at its own size, and shown what its recipe's crop shows of a face.
        picture: RGB.
        mask: ``(1, H, W)`` bool of the picture's size, True = hole.
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
    cut = cut_out(picture, mask, int(data["image_size"]), named(data["crop"]))
    device = next(inpainter.parameters(), torch.empty(0)).device
    image, hole = (x.to(device).expand(len(seeds), -1, -1, -1) for x in (cut.image, cut.hole))
    wanted = None if told is None else told.to(device).expand(len(seeds), -1)
    completed = inpainter(image, hole, seeds=seeds, sampler=sampler, attributes=wanted)
    return [paste_back(cut, filled, feather) for filled in completed.cpu()]
