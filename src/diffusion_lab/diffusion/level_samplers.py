"""Level samplers beyond the uniform ones: where the loss is large, or where EDM found it worth looking."""

from typing import Any

import torch
from torch import Tensor

from diffusion_lab.diffusion.losses import Levels, at_times
from diffusion_lab.diffusion.schedule import NoiseSchedule


def lognormal_levels(schedule: NoiseSchedule, uniforms: Tensor, mean: float = -1.2, deviation: float = 1.2) -> Levels:
    """Ln of sigma, the ratio of noise to signal, from N(mean, deviation^2) (EDM, table 1)."""
    normal = torch.special.ndtri(uniforms[:, 0].clamp(1e-12, 1 - 1e-12))
    level = 1 / (1 + torch.exp(2 * (mean + deviation * normal)))
    next_level = torch.maximum(schedule.level(schedule.time(level) - 1), level)
    return Levels(level, next_level, torch.ones_like(level))


class LossSecondMoment:
    """t in proportion to sqrt(E[L_t^2]) over its last losses, importance-weighted (iDDPM eq. 18).

    It learns from what training tells it by `observe`: on every rank the same losses in the same order, so that all
    ranks draw from the same distribution. Uniform until every t has a full history.

    Args:
        steps: T of the schedule.
        history: losses remembered of each t.
        uniform: share of the draws that stay uniform.

    Example:
        >>> from diffusion_lab.diffusion.schedule import jsd
        >>> sampler = LossSecondMoment(steps=4, history=1, uniform=0)
        >>> every_t = at_times(jsd(4), torch.arange(1, 5), torch.ones(4, dtype=torch.float64))
        >>> sampler.observe(jsd(4), every_t, torch.tensor([3.0, 1.0, 1.0, 1.0]))
        >>> sampler.probabilities().tolist()
        [0.5, 0.16666666666666666, 0.16666666666666666, 0.16666666666666666]
    """

    def __init__(self, steps: int = 1000, history: int = 10, uniform: float = 0.001) -> None:
        self.losses = torch.zeros(steps, history, dtype=torch.float64)  # of t = 1..T, a ring
        self.counts = torch.zeros(steps, dtype=torch.int64)
        self.uniform = uniform

    def probabilities(self) -> Tensor:
        """``(T,)`` of t = 1..T."""
        steps, history = self.losses.shape
        even = torch.full((steps,), 1 / steps, dtype=torch.float64)
        if bool((self.counts < history).any()):
            return even
        moment = self.losses.square().mean(1).sqrt()
        return torch.lerp(moment / moment.sum(), even, self.uniform)

    def __call__(self, schedule: NoiseSchedule, uniforms: Tensor) -> Levels:
        if schedule.steps != len(self.counts):
            raise ValueError(
                f"objective.levels.steps is {len(self.counts)}, but the schedule's is {schedule.steps}: make them agree"
            )
        chances = self.probabilities()
        index = torch.searchsorted(chances.cumsum(0), uniforms[:, 0].contiguous(), right=True).clamp(
            max=schedule.steps - 1
        )
        return at_times(schedule, index + 1, 1 / (schedule.steps * chances[index]))

    def observe(self, schedule: NoiseSchedule, levels: Levels, losses: Tensor) -> None:
        """Remembers the losses of a batch, ``(B,)`` as the loss returned them, importance weight included."""
        t = schedule.time(levels.level).round().long()
        for index, loss in zip((t - 1).tolist(), losses.detach().cpu().double() / levels.weight, strict=True):
            self.losses[index, self.counts[index] % self.losses.shape[1]] = loss
            self.counts[index] += 1

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold for training to go on as it was."""
        return {"losses": self.losses, "counts": self.counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint."""
        self.losses, self.counts = state["losses"], state["counts"]
