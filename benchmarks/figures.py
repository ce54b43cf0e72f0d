"""Draw docs/figures of diffusion itself: ``python benchmarks/figures.py --inpainter FOLDER [--calls results.json]``.

forward.png: a face on its way into noise. reverse.png: the same hole filled by several samplers, x and the x_0 that the
model sees at each moment. snr.png: every schedule of conf/schedule. calls.png: quality against network calls, from the
results of ``evaluate.py methods=calls``.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from diffusion_lab import recipe
from diffusion_lab.charts import beside, chart
from diffusion_lab.data.cache import Pictures, build
from diffusion_lab.data.celeba import CelebA, built_in_faces
from diffusion_lab.data.crops import center148
from diffusion_lab.data.masks import center, evaluation_mask
from diffusion_lab.diffusion import samplers
from diffusion_lab.diffusion.denoiser import Prediction
from diffusion_lab.diffusion.noise import ExampleNoise
from diffusion_lab.diffusion.process import add_noise, log_snr
from diffusion_lab.diffusion.sampling import Rows, Sampler
from diffusion_lab.diffusion.schedule import NoiseSchedule, cosine, linear
from diffusion_lab.inpainting import Inpainter
from diffusion_lab.pictures import masked, sheet, to_float

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "docs" / "figures"
CACHE = Path.home() / ".cache" / "diffusion_lab"
TIMES = (0.0, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 1.0)  # shares of T
SEEN = (0.04, 0.2, 0.4, 0.6, 0.8, 1.0)  # shares of the steps


def faces(size: int, count: int) -> Tensor:
    """The first faces of the built-in test split, (count, 3, size, size) in [-1, 1]."""
    source = CelebA(built_in_faces(), name="built-in faces")
    pictures = Pictures(build(source, "test", center148(), size, CACHE))
    return to_float(pictures[torch.arange(count)])


def forward_process(size: int = 64) -> Image.Image:
    """q(x_t | x_0) with the same noise at every t, for the linear and the cosine schedule."""
    rows = []
    for schedule in (linear(), cosine()):
        face = faces(size, 1)
        eps = ExampleNoise([0], face.shape[1:])()
        levels = [schedule.level(torch.tensor([t * schedule.steps])) for t in TIMES]
        rows.append([add_noise(face, eps, level)[0].clamp(-1, 1) for level in levels])
    return named(sheet(rows, [f"t = {t:g} T" for t in TIMES]), ["linear", "cosine"])


def reverse_process(inpainter: Inpainter) -> Image.Image:
    """X and the model's x_0 at some moments, the hole alone being drawn, for several samplers."""
    ways: dict[str, Sampler] = {
        "ddpm, 50": samplers.ddpm(50),
        "ddim, 50": samplers.ddim(50),
        "dpm_solver, 15": samplers.dpm_solver(15),
    }
    image = faces(inpainter.recipe["data"]["image_size"], 6)[5:6]
    mask = evaluation_mask(center, image.shape[-1], 0)[None]
    rows, names = [], []
    for name, sampler in ways.items():
        calls = inpainter.network_calls(sampler)
        seen: list[tuple[Tensor, Tensor]] = []

        def remember(rows: Rows, prediction: Prediction, seen: list[tuple[Tensor, Tensor]] = seen) -> None:
            seen.append((rows.x, prediction.x_0))

        inpainter(image, mask, seeds=[1], sampler=sampler, on_step=remember)
        moments = [seen[max(1, round(share * calls)) - 1] for share in SEEN]
        x, x_0 = ([torch.where(mask, pair[i], image)[0].clamp(-1, 1) for pair in moments] for i in (0, 1))
        rows += [[masked(image, mask)[0], *x, image[0]], [masked(image, mask)[0], *x_0, image[0]]]
        names += [f"{name}: x", f"{name}: x_0"]
    return named(sheet(rows, ["hole", *[f"{round(100 * share)} %" for share in SEEN], "truth"]), names, margin=130)


def schedules() -> Image.Image:
    """Log-SNR over t / T of every schedule that conf/schedule names."""
    lines = {}
    for path in sorted((ROOT / "conf" / "schedule").glob("*.yaml")):
        if path.stem == "learned":  # of a lesson, and not known before it is trained
            continue
        made: NoiseSchedule = recipe.build(yaml.safe_load(path.read_text()))
        shares = torch.linspace(0, 1, 101, dtype=torch.float64)[1:]
        values = log_snr(made.level(shares * made.steps)).clamp(-14, 14)
        lines[path.stem] = list(zip(shares.tolist(), values.tolist(), strict=True))
    return chart(lines, "t / T", "log-SNR, cut at -14", size=(560, 380), y_range=(-14.5, 9.0), marks=False)


def quality(results: dict[str, Any]) -> Image.Image:
    """FID and LPIPS over network calls, a line for each sampler; a chart pair for each kind of hole."""
    drawn = []
    kinds = list(dict.fromkeys(row["mask"] for row in results["rows"]))
    for kind in kinds:
        rows = [row for row in results["rows"] if row["mask"] == kind and row["network_calls"]]
        families = dict.fromkeys(row["method"].rpartition("_")[0] for row in rows)
        for key, label in (("fid", "FID"), ("lpips", "LPIPS")):
            lines = {
                family: [(r["network_calls"], r[key]) for r in rows if r["method"].rpartition("_")[0] == family]
                for family in families
            }
            title = f"{kind}, n = {results['protocol']['n']}"
            drawn.append(chart(lines, "network calls", label, title, logarithmic=True))
    return beside(drawn)


def named(picture: Image.Image, names: Sequence[str], margin: int = 70, side: int = 96, gap: int = 4) -> Image.Image:
    """A sheet with a name before each row."""
    canvas = Image.new("RGB", (picture.width + margin, picture.height), "white")
    canvas.paste(picture, (margin, 0))
    top = picture.height - (side + gap) * len(names)
    for i, name in enumerate(names):
        middle = (margin - 6, top + i * (side + gap) + side // 2)
        ImageDraw.Draw(canvas).text(middle, name, "black", ImageFont.load_default(12), anchor="rm")
    return canvas


def save(picture: Image.Image, name: str) -> None:
    """A PNG of 256 colours in docs/figures."""
    picture.quantize(256).save(FIGURES / f"{name}.png", optimize=True)
    print(f"wrote {FIGURES / name}.png")


def main(given: Sequence[str] | None = None) -> None:
    """Draws what it has the means for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inpainter", help="folder, for reverse.png")
    parser.add_argument("--calls", type=Path, help="results.json of evaluate.py methods=calls, for calls.png")
    asked = parser.parse_args(given)
    FIGURES.mkdir(parents=True, exist_ok=True)
    save(forward_process(), "forward")
    save(schedules(), "snr")
    if asked.inpainter:
        save(reverse_process(Inpainter.load(asked.inpainter)), "reverse")
    if asked.calls:
        save(quality(json.loads(asked.calls.read_text())), "calls")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
