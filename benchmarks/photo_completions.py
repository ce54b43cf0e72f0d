"""Draw docs/figures/completions.png: a photo, its hole, and four completions: ``photo_completions.py ZIP [file]``."""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from diffusion_lab import cascade, photo
from diffusion_lab.data.crops import named
from diffusion_lab.inpainting import shipped
from diffusion_lab.pictures import to_uint8
from photo import holed, looked_at, pictures, scene

ROWS = ((1, "eyes"), (9, "mouth"), (11, "centre"), (4, "glasses"))
"""Number of the face, and its hole."""
SIDE = 180


def main() -> None:
    """One row per face, each somewhere in a larger photo and turned."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("faces", type=Path, metavar="ZIP", help="square pictures of faces")
    parser.add_argument("file", type=Path, nargs="?", default=Path("docs/figures/completions.png"))
    parser.add_argument("--inpainter", type=Path, default=shipped())
    options = parser.parse_args()
    model = cascade.load(options.inpainter).eval()
    crop = named(model.recipe["data"]["crop"])
    faces = pictures(options.faces, 1 + max(number for number, _ in ROWS))
    sheet = Image.new("RGB", (6 * (SIDE + 4) - 4, len(ROWS) * (SIDE + 4) - 4), "white")
    for row, (number, name) in enumerate(ROWS):
        example = scene(faces[number], name, number, 256, 20, 3)
        cut = photo.cut(example.picture, example.hole, model.sides, crop)
        with torch.inference_mode():
            filled = photo.fill(model, cut, [0, 1, 2, 3])
        shown = [np.asarray(example.picture), holed(example), *map(np.asarray, filled)]
        for column, pixels in enumerate(shown):
            seen = Image.fromarray(to_uint8(looked_at(example, pixels)).permute(1, 2, 0).numpy())
            place = column * (SIDE + 4), row * (SIDE + 4)
            sheet.paste(seen.resize((SIDE, SIDE), Image.Resampling.LANCZOS), place)
    sheet.quantize(256).save(options.file, optimize=True)


if __name__ == "__main__":
    main()
