"""How real photos fare: faces somewhere in a larger picture, turned and scaled, with holes, filled at their own size.

``python benchmarks/photo.py --inpainter FOLDER`` prints one row per hole and method; ``--sheet FILE`` draws them, and
``--close FILE`` their holes at the photo's own pixels.
"""

import argparse
import io
import math
import multiprocessing
import platform
import resource
import statistics
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from skimage import data

from diffusion_lab import cascade, photo
from diffusion_lab.data.celeba import built_in_faces
from diffusion_lab.data.crops import named
from diffusion_lab.frames import Frame, Pixels, Points
from diffusion_lab.inpainting import shipped
from diffusion_lab.metrics import LPIPS, frechet_distance, inception, seam
from diffusion_lab.pictures import from_pil, sheet, to_pil, to_uint8

EYES = np.array([[0.368, 0.477], [0.625, 0.477]])
"""In the pictures of faces, as fractions of their side: FFHQ's upright frame."""
SHOWN = 256
"""Pixels of the upright squares that LPIPS compares, as wide as the face's picture."""

Fill = Callable[[Image.Image, torch.Tensor, int], Image.Image]
"""(photo, its hole, seed) -> the photo filled."""


class Scene(NamedTuple):
    """A photo with a face in it."""

    picture: Image.Image
    hole: torch.Tensor
    frame: Frame


def pictures(archive: Path, count: int) -> list[Image.Image]:
    """Square pictures of faces, of a folder or of an archive.

    Of an archive those of the test partition (2), or all if there is no list of them beside it.
    """
    if archive.is_dir():
        return [Image.open(path).convert("RGB") for path in sorted(archive.glob("*.png"))[:count]]
    partition = archive.parent / "list_eval_partition.txt"
    asked = dict(line.split() for line in partition.read_text().splitlines()) if partition.is_file() else {}
    with zipfile.ZipFile(archive) as stored:
        names = [name for name in sorted(stored.namelist()) if asked.get(Path(name).name, "2") == "2"]
        opened = [Image.open(io.BytesIO(stored.read(name))).convert("RGB") for name in names[:count]]
    # The built-in faces are padded above and below, to CelebA's size.
    return [face.crop((0, 28, 178, 206)) if face.size == (178, 218) else face for face in opened]


def hole(name: str, side: int, rng: np.random.Generator) -> Image.Image:
    """White where the face's picture is to be filled."""
    mask = Image.new("L", (side, side))
    draw = ImageDraw.Draw(mask)

    def box(left: float, top: float, right: float, bottom: float) -> tuple[float, float, float, float]:
        return left * side, top * side, right * side, bottom * side

    if name == "eyes":
        draw.rectangle(box(0.26, 0.39, 0.74, 0.56), fill=255)
    elif name == "mouth":
        draw.rectangle(box(0.34, 0.66, 0.66, 0.83), fill=255)
    elif name == "centre":
        draw.rectangle(box(0.25, 0.25, 0.75, 0.75), fill=255)
    elif name == "half":
        draw.rectangle(box(0.5, 0, 1, 1), fill=255)
    elif name == "glasses":
        for x, _ in EYES:
            draw.ellipse(box(x - 0.1, 0.4, x + 0.1, 0.56), fill=255)
        draw.rectangle(box(0.2, 0.455, 0.8, 0.48), fill=255)
    else:
        count, width = (4, 0.012) if name == "scratch" else (2, 0.09)
        for _ in range(count):
            x, y, angle = *rng.uniform(0.2, 0.8, 2), rng.uniform(0, 2 * math.pi)
            path = [(x, y)]
            for _ in range(6):
                angle += rng.normal(0, 0.3 if name == "scratch" else 0.8)
                x, y = (float(np.clip(v, 0.05, 0.95)) for v in (x + 0.1 * math.cos(angle), y + 0.1 * math.sin(angle)))
                path.append((x, y))
            line = [(x * side, y * side) for x, y in path]
            draw.line(line, fill=255, width=max(2, round(width * side)), joint="curve")
    return mask


HOLES = ("eyes", "mouth", "centre", "half", "scratch", "glasses", "stroke")


def scene(face: Image.Image, name: str, number: int, side: int, turn: float, room: float) -> Scene:
    """A face's picture, `side` pixels wide, within a photo that is up to `room` times as wide.

    Args:
        face: the picture.
        name: of the hole.
        number: of the example; what is drawn depends on it alone.
        side: in pixels.
        turn: degrees; the face is turned by up to so many either way.
        room: 1: the face's picture is the whole photo, and upright.
    """
    rng = np.random.default_rng([number, HOLES.index(name)])
    large = face.resize((side, side), Image.Resampling.LANCZOS)
    mask = hole(name, side, rng)
    if room == 1:
        return Scene(large, torch.from_numpy(np.asarray(mask) > 127)[None], Frame(side / 2, side / 2, side))
    width = round(side * rng.uniform(1.6, room))
    height = max(round(width * 0.75), round(1.5 * side))
    angle = math.radians(rng.uniform(-turn, turn))
    # The circle around the face's square stays inside.
    reach = side * (abs(math.cos(angle)) + abs(math.sin(angle))) / 2
    x, y = (float(rng.uniform(reach, max(reach, length - reach))) for length in (width, height))
    frame = Frame(x, y, float(side), angle)
    backs = (data.coffee, data.rocket, data.chelsea, data.brick, data.grass, data.gravel)
    back = (
        Image.fromarray(backs[number % len(backs)]()).convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    )
    corner, right, down = frame.outside(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    matrix = np.linalg.inv(
        np.array([*(np.array([right - corner, down - corner, corner]).T / [side, side, 1]), [0, 0, 1]])
    )

    def laid(picture: Image.Image) -> Image.Image:
        return picture.transform((width, height), Image.Transform.AFFINE, matrix[:2].ravel(), Image.Resampling.BICUBIC)

    edge = Image.new("L", (side, side))
    ImageDraw.Draw(edge).rounded_rectangle((3, 3, side - 4, side - 4), side / 3, fill=255)
    back.paste(laid(large), (0, 0), laid(edge))
    return Scene(back, torch.from_numpy(np.asarray(laid(mask)) > 127)[None], frame)


def ours(folder: Path, eyes: tuple[Points, ...] | None, feather: int, detail: int) -> Fill:
    """An inpainter or a cascade, aligned (None) or not (no eyes), in squares of up to so many pixels a side."""
    model = cascade.load(folder).eval()
    crop = named(model.recipe["data"]["crop"])

    @torch.inference_mode()
    def fill(picture: Image.Image, mask: torch.Tensor, seed: int) -> Image.Image:
        cut = photo.cut(picture, mask, model.sides, crop, model.task, eyes, detail)
        return photo.fill(model, cut, [seed], feather=feather)[0]

    return fill


def classical(algorithm: int) -> Fill:
    """OpenCV's, with a radius of 3 pixels."""

    def fill(picture: Image.Image, mask: torch.Tensor, seed: int) -> Image.Image:
        holes = mask[0].numpy().astype(np.uint8)
        return Image.fromarray(cv2.inpaint(np.asarray(picture), holes, 3, algorithm))

    return fill


def grey(pixels: Pixels) -> NDArray[np.float64]:
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float64)


def sharpness(pixels: Pixels, mask: NDArray[np.bool_]) -> float:
    """Variance of the Laplacian in the hole."""
    return float(cv2.Laplacian(grey(pixels), cv2.CV_64F)[mask].var())


def boxed(example: Scene, picture: Image.Image) -> torch.Tensor:
    """The box around the hole at the photo's own pixels, 64 a side at least."""
    left, top, right, bottom = Image.fromarray(example.hole[0].numpy()).getbbox() or (0, 0, 0, 0)
    return from_pil(picture.crop((left, top, max(right, left + 64), max(bottom, top + 64))))


def measured(example: Scene, result: Image.Image, lpips: LPIPS) -> tuple[float, float, float, float]:
    """Sharp, LPIPS of the face, LPIPS of the hole's box and seam; of the first and the last 1 is right."""
    truth, made, mask = np.asarray(example.picture), np.asarray(result), example.hole[0].numpy()
    assert np.array_equal(truth[~mask], made[~mask]), "a known pixel has changed"
    squares = [from_pil(Image.fromarray(example.frame.cut(x, SHOWN)))[None] for x in (made, truth)]
    apart = float(lpips(*squares))
    close = float(lpips(*(boxed(example, picture)[None] for picture in (result, example.picture))))
    whole = (torch.from_numpy(x.copy()).permute(2, 0, 1)[None] for x in (made, truth))
    return sharpness(made, mask) / sharpness(truth, mask), apart, close, float(seam(*whole, example.hole[None]))


def holed(example: Scene) -> Pixels:
    """The photo with its hole in grey."""
    return np.where(example.hole[0, ..., None].numpy(), np.uint8(90), np.asarray(example.picture))


def looked_at(example: Scene, pixels: Pixels) -> torch.Tensor:
    """The face as it lies in the photo, with what is around it."""
    wide = Frame(example.frame.x, example.frame.y, 1.3 * example.frame.side)
    return from_pil(Image.fromarray(wide.cut(pixels, SHOWN)))


def laid_out(rows: list[list[torch.Tensor]]) -> Image.Image:
    """Pictures of any sizes in rows, pixel by pixel."""
    heights = [max(picture.shape[1] for picture in row) + 4 for row in rows]
    whole = Image.new("RGB", (max(sum(picture.shape[2] + 4 for picture in row) for row in rows), sum(heights)), "white")
    for number, row in enumerate(rows):
        left = 0
        for picture in row:
            whole.paste(to_pil(picture), (left, sum(heights[:number])))
            left += picture.shape[2] + 4
    return whole


def interval(values: list[float], draws: int = 2000) -> str:
    """The median and a 95 % bootstrap interval of it."""
    drawn = np.random.default_rng(0).choice(values, (draws, len(values)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return f"{statistics.median(values):.3g} ({low:.3g} - {high:.3g})"


def memory(megapixels: float, size: int, faces: Path) -> None:
    """Prints what a large photo costs beside the model: seconds, and megabytes at the worst beyond the photo's own."""
    side = round(math.sqrt(megapixels * 1e6 / 1.5) / 1.6)
    example = scene(pictures(faces, 1)[0], "half", 0, side, 30, 2.4)
    size_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    cut = photo.cut(example.picture, example.hole, (size,), named("center148"))
    between = time.perf_counter()
    photo.paste(cut, cut.images, feather=8)
    ended = time.perf_counter()
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - size_before) / 1024
    width, height = example.picture.size
    print(
        f"{width}x{height} ({width * height / 1e6:.0f} MP) at {size} px: found and cut in {between - began:.1f} s, "
        f"pasted in {ended - between:.1f} s, {more:.0f} MB more at the peak"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inpainter", type=Path, default=shipped(), help="folder of an inpainter or a cascade")
    parser.add_argument("--faces", type=Path, default=built_in_faces() / "img_align_celeba.zip", help="zip or folder")
    parser.add_argument("--methods", nargs="+", default=["ours", "unaligned", "Telea", "Navier-Stokes"])
    parser.add_argument("--holes", nargs="+", choices=HOLES, default=HOLES)
    parser.add_argument("--count", type=int, default=24, help="faces")
    parser.add_argument("--side", type=int, default=256, help="of the face's picture in the photo, in pixels")
    parser.add_argument("--turn", type=float, default=30, help="degrees")
    parser.add_argument("--room", type=float, default=4, help="width of the photo, in faces; 1: upright portraits")
    parser.add_argument(
        "--levels", type=int, nargs=2, default=(0, 255), help="of the faces: what black and white become"
    )
    parser.add_argument("--feather", type=int, default=0)
    parser.add_argument("--detail", type=int, nargs="+", default=[512], help="pixels a side of a face, each a method")
    parser.add_argument("--close", type=Path, help="where to draw the holes of the first six at the photo's own pixels")
    parser.add_argument("--sheet", type=Path, help="where to draw the first eight of each hole")
    parser.add_argument("--megapixels", type=float, default=0, help="measure memory on a photo of this size instead")
    options = parser.parse_args()
    if options.megapixels:
        child = multiprocessing.get_context("spawn").Process(
            target=memory, args=(options.megapixels, options.side, options.faces)
        )
        child.start()
        child.join()
        return
    finest = options.detail[-1]
    makers: dict[str, Callable[[], dict[str, Fill]]] = {
        "ours": lambda: {
            f"ours, {side} px": ours(options.inpainter, None, options.feather, side) for side in options.detail
        },
        "unaligned": lambda: {"unaligned": ours(options.inpainter, (), options.feather, finest)},
        "Telea": lambda: {"Telea": classical(cv2.INPAINT_TELEA)},
        "Navier-Stokes": lambda: {"Navier-Stokes": classical(cv2.INPAINT_NS)},
    }
    methods = {name: fill for chosen in options.methods for name, fill in makers[chosen]().items()}
    lpips, features = LPIPS(), inception()
    black, white = options.levels
    levels = [round(black + (white - black) * level / 255) for level in range(256)] * 3
    faces = [face.point(levels) for face in pictures(options.faces, options.count)]
    print(
        f"{options.inpainter}; {len(faces)} faces of {options.faces.name}, {options.side} px wide, turned by up to "
        f"{options.turn:g} degrees in photos up to {options.room:g} times as wide; medians with 95 % bootstrap "
        f"intervals; levels {black} to {white}; {platform.machine()}, {torch.get_num_threads()} threads"
    )
    print("| hole | method | sharp | LPIPS | LPIPS of the hole | seam | FID of the hole | seconds |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    rows, close = [], []
    for name in options.holes:
        examples = [
            scene(face, name, number, options.side, options.turn, options.room) for number, face in enumerate(faces)
        ]
        truths = [boxed(e, e.picture) for e in examples]
        close.append(truths[:6])
        shown = [[looked_at(e, np.asarray(e.picture)), looked_at(e, holed(e))] for e in examples[:8]]
        for method, fill in methods.items():
            figures, seconds, boxes = [], [], []
            for number, example in enumerate(examples):
                began = time.perf_counter()
                result = fill(example.picture, example.hole, number)
                seconds.append(time.perf_counter() - began)
                figures.append(measured(example, result, lpips))
                boxes.append(boxed(example, result))
                if number < len(shown):
                    shown[number].append(looked_at(example, np.asarray(result)))
            told = " | ".join(interval(list(column)) for column in zip(*figures, strict=True))
            with torch.inference_mode():
                seen = [torch.cat([features(to_uint8(box[None])) for box in each]) for each in (truths, boxes)]
            fid = float(frechet_distance(*(x.double() for x in seen)))
            print(f"| {name} | {method} | {told} | {fid:.1f} | {statistics.median(seconds):.2f} |", flush=True)
            close.append(boxes[:6])
        rows += shown
    if options.sheet:
        sheet(rows, ["photo", "hole", *methods], side=160).save(options.sheet)
    if options.close:
        laid_out(close).save(options.close)


if __name__ == "__main__":
    main()
