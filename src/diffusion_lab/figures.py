"""Draws diffusion itself: pictures of a model, of its process and of what `evaluate.py` wrote."""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from diffusion_lab.charts import beside, chart
from diffusion_lab.data.cache import Pictures, build
from diffusion_lab.data.celeba import CelebA, built_in_faces
from diffusion_lab.data.crops import center148
from diffusion_lab.data.masks import center, evaluation_mask, half
from diffusion_lab.diffusion import samplers
from diffusion_lab.diffusion import schedule as schedules
from diffusion_lab.diffusion.denoiser import Prediction
from diffusion_lab.diffusion.flow import flow
from diffusion_lab.diffusion.noise import ExampleNoise
from diffusion_lab.diffusion.process import add_noise, log_snr
from diffusion_lab.diffusion.sampling import Rows, Sampler
from diffusion_lab.diffusion.schedule import NoiseSchedule
from diffusion_lab.inpainting import Inpainter
from diffusion_lab.pictures import masked, sheet, to_float, to_uint8

SCHEDULES: Mapping[str, Callable[[], NoiseSchedule]] = {
    "cosine": schedules.cosine,
    "sigmoid": schedules.sigmoid,
    "jsd": schedules.jsd,
    "flow": flow,
    "quadratic": schedules.quadratic,
    "palette_train": lambda: schedules.linear(2000, 1e-6, 0.01),
    "linear": schedules.linear,
    "zero_terminal": lambda: schedules.zero_terminal(schedules.linear()),
    "constant": schedules.constant,
    "palette_sample": lambda: schedules.linear(1000, 1e-4, 0.09),
}
SOLVERS: Mapping[str, Sampler] = {
    "ddpm, 50": samplers.ddpm(50),
    "ddim, 50": samplers.ddim(50),
    "dpm_solver, 15": samplers.dpm_solver(15),
    "dpm_solver_sde, 25": samplers.dpm_solver(25, eta=1.0),
    "heun, 35": samplers.heun(18),
}
"""By name and network calls."""

TIMES = (0.0, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 1.0)  # shares of T
SEEN = (0.04, 0.2, 0.4, 0.6, 0.8, 1.0)  # shares of the network calls
LOWEST = -14.0  # log-SNR that is still drawn
SIDE, GAP = 96, 4  # of a picture on a sheet, in pixels
MEASURES = {"fid": "FID", "lpips": "LPIPS"}


def faces(size: int, count: int, cache: Path) -> Tensor:
    """The first faces of the built-in test split, ``(count, 3, size, size)`` in [-1, 1]."""
    source = CelebA(built_in_faces(), name="built-in faces")
    return to_float(Pictures(build(source, "test", center148(), size, cache))[torch.arange(count)])


def forward_process(face: Tensor) -> Image.Image:
    """q(x_t | x_0) with the same noise at every t, for the linear and the cosine schedule."""
    rows = []
    eps = ExampleNoise([0], face.shape)()
    for schedule in (schedules.linear(), schedules.cosine()):
        levels = [schedule.level(torch.tensor([t * schedule.steps])) for t in TIMES]
        rows.append([add_noise(face[None], eps, level)[0].clamp(-1, 1) for level in levels])
    return named(sheet(rows, [f"t = {t:g} T" for t in TIMES], SIDE, GAP), ["linear", "cosine"])


def reverse_process(inpainter: Inpainter, face: Tensor) -> Image.Image:
    """X and the model's x_0 along the path of every solver, from the same noise; the hole alone is drawn."""
    image, mask = face[None], evaluation_mask(center, face.shape[-1], 0)[None]
    hole = masked(image, mask)[0]
    rows = []
    for sampler in SOLVERS.values():
        seen: list[tuple[Tensor, Tensor]] = []

        def remember(rows: Rows, prediction: Prediction, seen: list[tuple[Tensor, Tensor]] = seen) -> None:
            seen.append((rows.x, prediction.x_0))

        inpainter(image, mask, seeds=[1], sampler=sampler, on_step=remember)
        moments = [seen[max(1, round(share * len(seen))) - 1] for share in SEEN]
        for kind in (0, 1):  # x, x_0
            drawn = [torch.where(mask, moment[kind], image)[0].clamp(-1, 1) for moment in moments]
            rows.append([hole, *drawn, face])
    captions = ["hole", *[f"{share:.0%}" for share in SEEN], "truth"]
    return named(sheet(rows, captions, SIDE, GAP), [f"{name}: {kind}" for name in SOLVERS for kind in ("x", "x_0")])


def tasks(inpainters: Sequence[Inpainter], cache: Path) -> Image.Image:
    """What each model is given of two faces, what it makes of them, and the truth; a row for each."""
    from diffusion_lab.evaluation import problems  # late: Lightning comes with it

    rows = []
    for inpainter in inpainters:
        asked = next(iter(problems(inpainter.task, {"half": half} if inpainter.task.holes else None).values()))
        indices = torch.tensor([2, 3])
        truth = faces(inpainter.recipe["data"]["image_size"], 4, cache)[indices]
        regions = asked.regions(truth.shape[-1], indices)
        given = to_float(asked.given(to_uint8(truth), regions, indices))
        made = inpainter(given, regions, seeds=[0, 0])
        looked_at = asked.task.plain(given, regions)
        rows.append([picture for one in zip(looked_at, made, truth, strict=True) for picture in one])
    return named(sheet(rows, ["given", "result", "truth"] * 2, SIDE, GAP), [model.task.name for model in inpainters])


def signal_to_noise() -> Image.Image:
    """Log-SNR over t / T of every schedule."""
    shares = torch.linspace(0, 1, 201, dtype=torch.float64)[1:]
    lines = {}
    for name, make in SCHEDULES.items():
        schedule = make()
        values = log_snr(schedule.level(shares * schedule.steps)).clamp(LOWEST)
        lines[name] = list(zip(shares.tolist(), values.tolist(), strict=True))
    return chart(
        lines, "t / T", f"log-SNR, cut at {LOWEST:g}", size=(560, 380), y_range=(LOWEST - 0.5, 9.0), marks=False
    )


def family(method: str) -> str:
    """What a method is called without its number of steps: methods of one family make one line.

    Example:
        >>> family("ddim_50"), family("palette_ddpm")
        ('ddim', 'palette_ddpm')
    """
    return re.sub(r"_\d+$", "", method)


def quality(results: Mapping[str, Any]) -> Image.Image:
    """FID and LPIPS over network calls, a line for each family of methods and a row for each kind of hole."""
    rows = [row for row in results["rows"] if row["network_calls"]]
    drawn = []
    for kind in dict.fromkeys(row["mask"] for row in rows):
        for key, label in MEASURES.items():
            lines: dict[str, list[tuple[float, float]]] = {}
            for row in rows:
                if row["mask"] == kind and row[key] is not None:
                    lines.setdefault(family(row["method"]), []).append((row["network_calls"], row[key]))
            title = f"{kind}, n = {results['protocol']['n']}"
            drawn += [chart(lines, "network calls", label, title, logarithmic=True)] if lines else []
    return beside(drawn, columns=len(MEASURES))


def swiss_roll(folder: Path, count: int = 500) -> Image.Image:
    """The trajectories of the model of ``experiment=dpm2015_swissroll`` that a folder holds."""
    from diffusion_lab.lessons import data, trajectories
    from diffusion_lab.lessons.dpm import DPM

    examples = data.swiss_roll(count, torch.Generator().manual_seed(1))
    hole = torch.tensor([False, True])
    return trajectories.figure(DPM.load(folder), examples, hole, trajectories.points, drifts=True)


def named(picture: Image.Image, names: Sequence[str]) -> Image.Image:
    """A sheet with a name before each row."""
    font = ImageFont.load_default(12)
    margin = 12 + round(max(font.getlength(name) for name in names))
    canvas = Image.new("RGB", (picture.width + margin, picture.height), "white")
    canvas.paste(picture, (margin, 0))
    draw, top = ImageDraw.Draw(canvas), picture.height - (SIDE + GAP) * len(names)
    for i, name in enumerate(names):
        draw.text((margin - 6, top + i * (SIDE + GAP) + SIDE // 2), name, "black", font, anchor="rm")
    return canvas


if __name__ == "__main__":
    from diffusion_lab.commands.figures import main

    sys.exit(main())
