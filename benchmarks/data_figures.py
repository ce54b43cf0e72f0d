"""Draw docs/figures/masks.png and docs/figures/crops.png: ``python benchmarks/data_figures.py [folder]``."""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from diffusion_lab.data.celeba import CelebA, built_in_faces
from diffusion_lab.data.crops import center140, center148, ddim128, full
from diffusion_lab.data.decoding import decode
from diffusion_lab.data.masks import (
    Landmarks,
    MaskFn,
    alternate_lines,
    center,
    evaluation_mask,
    expand,
    free_form,
    half,
    lama_medium,
    lama_thick,
    lama_thin,
    palette,
    rectangle,
    rectangles,
    super_resolution,
)

MASKS: dict[str, MaskFn] = {
    "palette": palette,
    "free_form": free_form,
    "rectangles": rectangles,
    "rectangle": rectangle,
    "center": center,
    "half": half,
    "expand": expand,
    "lama_thin": lama_thin,
    "lama_medium": lama_medium,
    "lama_thick": lama_thick,
    "alternate_lines": alternate_lines,
    "super_resolution": super_resolution,
    "landmarks": Landmarks(center148()),
}


def faces(count: int) -> list[Image.Image]:
    """Some faces of the built-in test split, 178x218."""
    source = CelebA(built_in_faces())
    return [decode(source.read(name)) for name in source.names("test")[:count]]


def with_hole(face: Image.Image, mask: Tensor) -> Image.Image:
    """The picture with its hole in grey."""
    pixels = np.asarray(face).copy()
    pixels[mask[0].numpy()] = 128
    return Image.fromarray(pixels)


def sheet(rows: dict[str, list[Image.Image]], label_width: int = 104) -> Image.Image:
    """Rows of pictures of one size, each with its name before it."""
    width, height = next(iter(rows.values()))[0].size
    longest = max(map(len, rows.values()))
    page = Image.new("RGB", (label_width + longest * (width + 4), len(rows) * (height + 4)), "white")
    draw = ImageDraw.Draw(page)
    for y, (label, pictures) in enumerate(rows.items()):
        draw.text((4, y * (height + 4) + height // 2 - 6), label, fill="black")
        for x, picture in enumerate(pictures):
            page.paste(picture, (label_width + x * (width + 4), y * (height + 4)))
    return page


def main(folder: Path) -> None:
    """Write both sheets."""
    folder.mkdir(parents=True, exist_ok=True)
    squares = [center148()(face).resize((64, 64), Image.Resampling.LANCZOS) for face in faces(6)]
    masks = {
        name: [with_hole(face, evaluation_mask(mask, 64, index)) for index, face in enumerate(squares)]
        for name, mask in MASKS.items()
    }
    sheet(masks).quantize(128).save(folder / "masks.png", optimize=True)
    crops = {
        crop.name: [crop(face).resize((96, 96), Image.Resampling.LANCZOS) for face in faces(6)]
        for crop in (full(), center148(), center140(), ddim128())
    }
    sheet(crops).quantize(128).save(folder / "crops.png", optimize=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "docs" / "figures")
