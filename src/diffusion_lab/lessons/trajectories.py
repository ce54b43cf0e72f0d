"""What is seen of a lesson's model: the bound, and forward and reverse trajectories as in the paper's figure 1."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from diffusion_lab.diffusion.denoiser import Condition, Prediction
from diffusion_lab.diffusion.noise import ExampleNoise
from diffusion_lab.diffusion.sampling import Rows
from diffusion_lab.lessons.dpm import DPM
from diffusion_lab.pictures import from_pil, save_png, sheet

SIDE = 192  # pixels of a panel
REACH = 3.0  # a panel of points shows [-REACH, REACH] on both axes

Panel = Callable[[Tensor], Tensor]
"""Examples (N, D) -> a picture of them (3, H, W) in [-1, 1]."""


class Splits(Protocol):
    """Data, drawn; `datamodule.DrawnData` is some."""

    @property
    def splits(self) -> dict[str, Tensor]:
        """Examples ``(N, D)`` of train, valid and test."""


def points(examples: Tensor) -> Tensor:
    """Points ``(N, 2)`` on a plane."""
    canvas = Image.new("RGB", (SIDE, SIDE), "white")
    draw = ImageDraw.Draw(canvas)
    for x, y in ((examples / REACH * torch.tensor([1, -1]) + 1) * SIDE / 2).tolist():
        draw.ellipse((x - 1, y - 1, x + 1, y + 1), fill="steelblue")
    return from_pil(canvas)


def sequences(examples: Tensor) -> Tensor:
    """Sequences ``(N, D)`` of spins, a row each; 1 is black."""
    return (-examples).clamp(max=0.7).expand(3, -1, -1)


@torch.no_grad()
def drift(model: DPM, t: int) -> Tensor:
    """Where the reverse step goes, mean minus x, over the plane; figure 1's last row. The longest arrow has one length.

    Args:
        model: of points.
        t: of x, 1 or more.
    """
    schedule = model.denoiser.schedule
    axis = torch.linspace(-REACH, REACH, 19)[1:-1]
    x = torch.cartesian_prod(axis, axis)
    level, next_level = (schedule.alpha_bar[s].detach().expand(len(x)) for s in (t, t - 1))
    prediction = model.denoiser(x, level, Condition())
    mean, _ = model.process(x, prediction, level, next_level, lambda: torch.zeros_like(x), model.process.start(x))
    moved = mean - x
    moved = moved / moved.norm(dim=1).max() * 2 * (axis[1] - axis[0])
    canvas = Image.new("RGB", (SIDE, SIDE), "white")
    draw = ImageDraw.Draw(canvas)
    flip = torch.tensor([1, -1])
    for start, end in zip(x * flip, (x + moved) * flip, strict=True):
        foot, tip = (((p / REACH + 1) * SIDE / 2).tolist() for p in (start, end))
        draw.line((*foot, *tip), fill="grey")
        draw.ellipse((tip[0] - 1.5, tip[1] - 1.5, tip[0] + 1.5, tip[1] + 1.5), fill="firebrick")
    return from_pil(canvas)


def moments(model: DPM, image: Tensor, mask: Tensor, times: Sequence[int]) -> list[Tensor]:
    """What x is along a reverse trajectory, at these t below T, falling; seeds are the places in the batch."""
    found = []
    left = model.network_calls()

    def remember(rows: Rows, prediction: Prediction) -> None:
        nonlocal left
        left -= 1
        if left in times:
            found.append(rows.x)

    model(image, mask, seeds=torch.arange(len(image)), on_step=remember)
    return found


def figure(model: DPM, examples: Tensor, mask: Tensor, panel: Panel, drifts: bool) -> Image.Image:
    """Forward and reverse trajectories, what is drawn where a part is known, and where the steps go.

    Args:
        model: trained.
        examples: ``(N, D)``, the truth.
        mask: ``(D,)`` bool, True = what is to be drawn when the rest is known.
        panel: draws examples.
        drifts: whether to add the row of arrows.
    """
    schedule = model.denoiser.schedule
    times = [schedule.steps - 1, schedule.steps // 2, schedule.steps // 4, 0]
    noise = ExampleNoise(torch.arange(len(examples)), examples.shape[1:])
    levels = [schedule.alpha_bar[t].detach().expand(len(examples)) for t in times]
    everything = torch.ones_like(examples, dtype=torch.bool)
    rows = [
        [model.process.diffuse(examples, noise(), level) for level in levels],
        moments(model, examples, everything, times),
        moments(model, examples, mask.expand_as(examples), times),
    ]
    drawn = [[panel(x) for x in row] for row in rows]
    if drifts:
        drawn.append([drift(model, max(1, t)) for t in times])
    return sheet(drawn, [f"t = {t}" for t in times], side=SIDE)


def look(
    model: DPM,
    data: Splits,
    path: Path,
    truth: Callable[[Tensor], Tensor],
    panel: Panel,
    hole: Sequence[bool],
    drifts: bool = False,
    measured: int = 500,
    drawn: int = 500,
) -> dict[str, float]:
    """Measures the bound on validation examples, beside the truth, and draws the trajectories.

    Args:
        model: with the weights to be looked at, on any device.
        data: whose validation examples are taken.
        path: of the picture.
        truth: -log2 of the density that the examples were drawn from, in bits, ``(N,)``.
        panel: draws examples.
        hole: what is to be drawn when the rest is known, one for each place.
        drifts: whether the picture shows where the steps go.
        measured: number of examples.
        drawn: number of examples in the picture.

    Returns:
        Means in bits an example: "bits", "bits_eq14" (see `dpm.Bound`) and "bits_true".
    """
    model = copy.deepcopy(model).cpu()  # where the examples are
    examples = data.splits["valid"][:measured]
    found = model.bound(examples, seeds=torch.arange(len(examples)))
    save_png(figure(model, examples[:drawn], torch.tensor(hole), panel, drifts), path)
    return {
        "bits": float(found.total.mean()),
        "bits_eq14": float(found.equation_14.mean()),
        "bits_true": float(truth(examples).mean()),
    }
