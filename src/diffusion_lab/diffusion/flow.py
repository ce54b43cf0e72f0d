"""Rectified flow on this package's levels: the straight line between a picture and noise.

Its papers write z = (1 - t) x_0 + t eps, t in [0, 1] from data to noise, and learn dz / dt = eps - x_0 (Liu et al.
2022; Lipman et al. 2022; Esser et al. 2024, "SD3"). Here x = signal x_0 + sigma eps with signal^2 + sigma^2 = 1. So z
is x / (signal + sigma) and t is sigma / (signal + sigma): the same picture at another scale, and nothing else in the
package needs to know. What is flow's own stands here: where its t lie (`flow`), which of them are trained
(`logit_normal_levels`), and what a network sees and says (`FlowVelocity`).

Euler's step in t, z' = z + (t' - t) (eps - x_0), is DDIM's step with eta 0 on the same levels.
"""

import torch
from torch import Tensor

from diffusion_lab.diffusion.denoiser import Prediction
from diffusion_lab.diffusion.losses import Levels
from diffusion_lab.diffusion.process import along, eps_from_x_0
from diffusion_lab.diffusion.schedule import NoiseSchedule, counted


def flow_time(level: Tensor) -> Tensor:
    """Flow's t of a level, sigma / (signal + sigma): 0 at level 1, 1 at level 0; ``(B,)``."""
    signal, sigma = level.sqrt(), (1 - level).sqrt()
    return sigma / (signal + sigma)


def at_flow_time(t: Tensor) -> Tensor:
    """The level at flow's t, (1 - t)^2 / ((1 - t)^2 + t^2); ``(B,)`` in [0, 1]."""
    return (1 - t).square() / ((1 - t).square() + t.square())


def flow(steps: int = 1000, shift: float = 1.0) -> NoiseSchedule:
    """Flow's t at even distances, from data to pure noise.

    Args:
        steps: T.
        shift: s of t -> s t / (1 + (s - 1) t), which makes pictures of more pixels noisier (SD3, eq. 23); 1 is none.

    Raises:
        ValueError: for a shift that is not above 0.

    Example:
        >>> flow(steps=4).alpha_bar.tolist()
        [1.0, 0.9, 0.5, 0.1, 0.0]
        >>> flow_time(flow(steps=2, shift=3.0).alpha_bar).tolist()
        [0.0, 0.75, 1.0]
    """
    if not shift > 0:
        raise ValueError(f"schedule.shift must be above 0, got {shift}")
    t = torch.linspace(0, 1, counted(steps) + 1, dtype=torch.float64)
    return NoiseSchedule(at_flow_time(shift * t / (1 + (shift - 1) * t)))


def logit_normal_levels(schedule: NoiseSchedule, uniforms: Tensor, mean: float = 0.0, deviation: float = 1.0) -> Levels:
    """Log(t / (1 - t)) of flow's t from N(mean, deviation^2), most often in the middle (SD3, eq. 19)."""
    t = (mean + deviation * torch.special.ndtri(uniforms[:, 0].clamp(1e-12, 1 - 1e-12))).sigmoid()
    level = at_flow_time(t)
    next_level = torch.maximum(schedule.level(schedule.time(level) - 1), level)
    return Levels(level, next_level, torch.ones_like(level))


def velocity_weight(level: Tensor, least: float = 0.05) -> Tensor:
    """1 / max(t, least)^2, by which a loss in x_0 is one in flow's velocity (Li & He 2025, algorithm 1)."""
    return flow_time(level).clamp(min=least) ** -2


def by_flow_time(schedule: NoiseSchedule, level: Tensor) -> Tensor:
    """Tells the network flow's t, spread over [0, 1000], whatever schedule it is trained on."""
    return 1000 * flow_time(level.double())


def seen(level: Tensor) -> Tensor:
    """What x is multiplied by to be z, 1 / (signal + sigma): from 1 at both ends to sqrt(1 / 2); ``(B,)``."""
    return 1 / (level.sqrt() + (1 - level).sqrt())


class FlowVelocity:
    """The network sees z and predicts dz / dt = eps - x_0 (Liu et al. 2022, eq. 1), finite at every level."""

    def target(self, x_0: Tensor, eps: Tensor, level: Tensor) -> Tensor:
        return eps - x_0

    def read(self, output: Tensor, x: Tensor, level: Tensor) -> Prediction:
        t = flow_time(level)
        scale, behind, ahead = along(x, seen(level), t, 1 - t)
        return Prediction(scale * x - behind * output, scale * x + ahead * output)

    def scale(self, level: Tensor) -> Tensor:
        return seen(level)


class FlowData:
    """The network sees z and predicts the picture (Li & He 2025, "JiT")."""

    def target(self, x_0: Tensor, eps: Tensor, level: Tensor) -> Tensor:
        return x_0

    def read(self, output: Tensor, x: Tensor, level: Tensor) -> Prediction:
        return Prediction(output, eps_from_x_0(x, output, level))

    def scale(self, level: Tensor) -> Tensor:
        return seen(level)
