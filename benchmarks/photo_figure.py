"""Draw docs/figures/photos.png: ``python benchmarks/photo_figure.py [file]``. Faces, holes and filling are real."""

import math
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from skimage import data

from diffusion_lab import cascade, photo
from diffusion_lab.data.celeba import built_in_faces
from diffusion_lab.data.crops import named
from diffusion_lab.frames import Frame
from diffusion_lab.inpainting import shipped
from photo import hole, pictures

PLACES = ((3, Frame(190.0, 205.0, 240.0, math.radians(-18)), "eyes"), (8, Frame(520.0, 190.0, 190.0, 0.35), "mouth"))
"""Face, where its picture lies, its hole."""


def main(path: Path) -> None:
    """Two faces, a hole in each, and a scratch beside them."""
    faces = pictures(built_in_faces() / "img_align_celeba.zip", 20)
    picture = Image.fromarray(data.coffee()).resize((720, 400), Image.Resampling.BICUBIC)
    mask = Image.new("L", picture.size)
    for number, frame, name in PLACES:
        corner, right, down = frame.outside(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
        columns = np.array([(right - corner) / 178, (down - corner) / 178, corner]).T
        back = np.linalg.inv(np.vstack([columns, [0, 0, 1]]))[:2].ravel()
        round_ = Image.new("L", (178, 178))
        ImageDraw.Draw(round_).rounded_rectangle((3, 3, 174, 174), 60, fill=255)
        for canvas, drawn in ((picture, faces[number]), (mask, hole(name, 178, np.random.default_rng(0)))):
            laid, shape = (
                x.transform(picture.size, Image.Transform.AFFINE, back, Image.Resampling.BICUBIC)
                for x in (drawn, round_)
            )
            canvas.paste(laid, (0, 0), shape)
    ImageDraw.Draw(mask).line([(640, 320), (665, 340), (690, 380)], fill=255, width=6)
    model = cascade.load(shipped()).eval()
    crop = named(model.recipe["data"]["crop"])
    cut = photo.cut(picture, torch.from_numpy(np.asarray(mask) > 127)[None], model.sides, crop)
    with torch.inference_mode():
        (result,) = photo.fill(model, cut, [1], feather=3)
    holed = Image.fromarray(np.where(cut.mask[..., None], np.uint8(90), cut.pixels))
    found = holed.copy()
    draw = ImageDraw.Draw(found)
    for part in cut.parts:
        corners = part.frame.outside(np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]))
        draw.polygon([tuple(p) for p in corners], outline="white" if part.eyes is None else "yellow", width=3)
        for x, y in [] if part.eyes is None else part.eyes:
            draw.ellipse((x - 5, y - 5, x + 5, y + 5), fill="yellow")
    sheet = Image.new("RGB", (2 * 720 + 8, 2 * 400 + 8), "white")
    for i, shown in enumerate((picture, holed, found, result)):
        sheet.paste(shown, (728 * (i % 2), 408 * (i // 2)))
    sheet.resize((1086, 606), Image.Resampling.LANCZOS).quantize(256).save(path, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/figures/photos.png"))
