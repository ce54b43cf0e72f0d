"""What training minimises, and at which levels."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from diffusion_lab.diffusion.denoiser import Parametrisation, Prediction
from diffusion_lab.diffusion.likelihood import Decoder, clipped_variance, discretised, step_bits
from diffusion_lab.diffusion.noise import Noise
from diffusion_lab.diffusion.process import add_noise, over
from diffusion_lab.diffusion.schedule import NoiseSchedule


@dataclass(frozen=True)
class Levels:
    """Where examples are trained.

    Args:
        level: ``(B,)`` of x.
        next_level: ``(B,)`` of the step's end, which the bound needs.
        weight: ``(B,)`` of each example's loss, mean 1 over the sampler's distribution.
        first_variance: stands in the bound for the posterior's variance of 0 in the step that ends at level 1.
    """

    level: Tensor
    next_level: Tensor
    weight: Tensor
    first_variance: float = 1e-30


LevelSampler = Callable[[NoiseSchedule, Tensor], Levels]
"""(schedule, two uniforms an example (B, 2)) -> levels."""

LevelWeight = Callable[[Tensor], Tensor]
"""level (B,) -> weight (B,) of the loss there."""


def at_times(schedule: NoiseSchedule, t: Tensor, weight: Tensor) -> Levels:
    """The steps from t to t - 1 of a schedule, ``(B,)`` in 1..T."""
    return Levels(schedule.alpha_bar[t], schedule.alpha_bar[t - 1], weight, clipped_variance(schedule.alpha_bar))


def discrete_levels(schedule: NoiseSchedule, uniforms: Tensor) -> Levels:
    """T uniform on 1..T (DDPM algorithm 1)."""
    t = 1 + (uniforms[:, 0] * schedule.steps).long()
    return at_times(schedule, t, torch.ones(len(t), dtype=torch.float64))


def continuous_levels(schedule: NoiseSchedule, uniforms: Tensor) -> Levels:
    """T uniform on 1..T, then gamma uniform between gamma_t and gamma_(t-1) (Palette, section 3.1; WaveGrad)."""
    ends = discrete_levels(schedule, uniforms)
    return replace(ends, level=torch.lerp(ends.level, ends.next_level, uniforms[:, 1]))


def one(level: Tensor) -> Tensor:
    """The same weight at every level: L_simple when the network predicts eps."""
    return torch.ones_like(level)


def p2(level: Tensor, k: float = 1.0, gamma: float = 1.0) -> Tensor:
    """1 / (k + SNR)^gamma, for a loss in eps: less of the imperceptible detail (Choi et al. 2022)."""
    return (k + over(level, 1 - level, otherwise=torch.inf)) ** -gamma


def min_snr(level: Tensor, gamma: float = 5.0) -> Tensor:
    """min(SNR, gamma), for a loss in x_0: no level outweighs the others (Hang et al. 2023)."""
    return over(level, 1 - level, otherwise=torch.inf).clamp(max=gamma)


def input_perturbation(eps: Tensor, noise: Noise, strength: float = 0.1) -> Tensor:
    """The noise that goes into x while eps stays the target: eps + strength xi (DDPM-IP, algorithm 1)."""
    return eps + strength * noise()


class Loss(Protocol):
    """What a prediction costs."""

    def __call__(self, prediction: Prediction, x_0: Tensor, eps: Tensor, levels: Levels, mask: Tensor) -> Tensor:
        """Loss of each example.

        Args:
            prediction: what the model said of x.
            x_0: the picture, ``(B, C, ...)``.
            eps: the noise that made x of it.
            levels: where.
            mask: ``(B, 1, ...)`` bool; what counts. An empty one counts nothing and costs 0.

        Returns:
            ``(B,)``.
        """


def over_hole(error: Tensor, mask: Tensor) -> Tensor:
    """Mean of each example over the hole, so that small holes weigh as much as large ones; 0 without a hole."""
    area = mask.flatten(1).sum(1).clamp(min=1)
    # Outside the hole the output is untrained and may be anything, infinity included.
    return torch.where(mask, error.mean(dim=1, keepdim=True), 0).flatten(1).sum(1) / area


class DenoisingLoss:
    """Weighted mean squared error over the hole.

    Args:
        of: what the error is measured in: eps for L_simple (DDPM eq. 14), or x_0, or v.
        weight: of each level.
    """

    def __init__(self, of: Parametrisation, weight: LevelWeight = one) -> None:
        self.of = of
        self.weight = weight

    def __call__(self, prediction: Prediction, x_0: Tensor, eps: Tensor, levels: Levels, mask: Tensor) -> Tensor:
        wanted = self.of.target(x_0, eps, levels.level)
        said = self.of.target(prediction.x_0, prediction.eps, levels.level)
        error = over_hole((said - wanted).square(), mask)
        return (self.weight(levels.level) * levels.weight).to(error) * error


class BoundLoss:
    """L_vlb: the step's term of the variational bound, in bits per dimension of the hole (DDPM eq. 5).

    Its mean over t is the bound, prior aside, divided by T.

    Args:
        variance_mix: the variance, if the network has not learned it; see `solvers.Ancestral`.
        decoder: log p(x_0 | x) in the step that ends at level 1.
    """

    def __init__(self, variance_mix: float = 0.0, decoder: Decoder = discretised) -> None:
        self.variance_mix = variance_mix
        self.decoder = decoder

    def __call__(self, prediction: Prediction, x_0: Tensor, eps: Tensor, levels: Levels, mask: Tensor) -> Tensor:
        bits = step_bits(
            prediction,
            x_0,
            levels.level,
            levels.next_level,
            x=add_noise(x_0, eps, levels.level),
            variance_mix=self.variance_mix,
            first_variance=levels.first_variance,
            decoder=self.decoder,
        )
        error = over_hole(bits, mask)
        return levels.weight.to(error) * error


class AttributeLoss:
    """What a classifier of noisy pictures costs: minus the log-probability that it gave to what is true, in nats."""

    def __call__(self, prediction: Tensor, x_0: Tensor, eps: Tensor, levels: Levels, mask: Tensor) -> Tensor:
        return -levels.weight.to(prediction) * prediction


class HybridLoss:
    """L_simple for the mean and a little of the bound for the learned variance alone (iDDPM eq. 16).

    Args:
        simple: what the mean learns from.
        bound: what the variance learns from; the mean's gradient stops before it.
        bound_weight: of the bound's mean term. The paper's lambda = .001 multiplies the sum of T terms: here .001 T.
    """

    def __init__(self, simple: Loss, bound: Loss, bound_weight: float = 1.0) -> None:
        self.simple = simple
        self.bound = bound
        self.bound_weight = bound_weight

    def __call__(self, prediction: Prediction, x_0: Tensor, eps: Tensor, levels: Levels, mask: Tensor) -> Tensor:
        fixed = replace(prediction, x_0=prediction.x_0.detach(), eps=prediction.eps.detach())
        bound = self.bound(fixed, x_0, eps, levels, mask)
        return self.simple(prediction, x_0, eps, levels, mask) + self.bound_weight * bound
