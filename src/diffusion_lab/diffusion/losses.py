"""What training minimises, and at which levels."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_lab.diffusion.denoiser import Parametrisation, Prediction
from diffusion_lab.diffusion.schedule import NoiseSchedule


@dataclass(frozen=True)
class Levels:
    """Where examples are trained.

    Args:
        level: ``(B,)`` of x.
        next_level: ``(B,)`` of the step's end, which the bound needs.
        weight: ``(B,)`` of each example's loss, mean 1 over the sampler's distribution.
    """

    level: Tensor
    next_level: Tensor
    weight: Tensor


LevelSampler = Callable[[NoiseSchedule, Tensor], Levels]
"""(schedule, two uniforms an example (B, 2)) -> levels."""

LevelWeight = Callable[[Tensor], Tensor]
"""level (B,) -> weight (B,) of the loss there."""


def discrete_levels(schedule: NoiseSchedule, uniforms: Tensor) -> Levels:
    """T uniform on 1..T (DDPM algorithm 1)."""
    t = 1 + (uniforms[:, 0] * schedule.steps).long()
    return Levels(schedule.alpha_bar[t], schedule.alpha_bar[t - 1], torch.ones(len(t), dtype=torch.float64))


def continuous_levels(schedule: NoiseSchedule, uniforms: Tensor) -> Levels:
    """T uniform on 1..T, then gamma uniform between gamma_t and gamma_(t-1) (Palette, section 3.1; WaveGrad)."""
    ends = discrete_levels(schedule, uniforms)
    return Levels(torch.lerp(ends.level, ends.next_level, uniforms[:, 1]), ends.next_level, ends.weight)


def one(level: Tensor) -> Tensor:
    """The same weight at every level: L_simple when the network predicts eps."""
    return torch.ones_like(level)


class DenoisingLoss:
    """Mean squared error over the hole, divided by the hole's area so that small holes weigh as much as large ones.

    Args:
        of: what the error is measured in: eps for L_simple (DDPM eq. 14), or x_0, or v.
        weight: of each level.
    """

    def __init__(self, of: Parametrisation, weight: LevelWeight = one) -> None:
        self.of = of
        self.weight = weight

    def __call__(self, prediction: Prediction, x_0: Tensor, eps: Tensor, levels: Levels, mask: Tensor) -> Tensor:
        """Loss of each example.

        Args:
            prediction: what the model said of x.
            x_0: the picture, ``(B, C, ...)``.
            eps: the noise that made x of it.
            levels: where.
            mask: ``(B, 1, ...)`` bool; what counts. An empty one counts nothing and costs 0.

        Returns:
            ``(B,)`` float32.
        """
        wanted = self.of.target(x_0, eps, levels.level)
        said = self.of.target(prediction.x_0, prediction.eps, levels.level)
        error = (said - wanted).square().mean(dim=1, keepdim=True) * mask
        area = mask.flatten(1).sum(1).clamp(min=1)
        weight = (self.weight(levels.level) * levels.weight).to(error)
        return weight * error.flatten(1).sum(1) / area
