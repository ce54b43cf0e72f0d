"""Denoisers of the lessons that are right by Bayes' rule, found by enumeration or in closed form."""

import torch
from torch import Tensor

from diffusion_lab.diffusion.denoiser import Condition, Prediction
from diffusion_lab.diffusion.process import beta_between, posterior_variance
from diffusion_lab.lessons.data import heartbeats


def which_heartbeat(x: Tensor, level: Tensor) -> Tensor:
    """p(phase | x), ``(B, 5)``, enumerated."""
    agree = level[:, None, None] * x.double()[:, None] * heartbeats().double()
    return ((1 + agree) / 2).log().sum(2).softmax(1)


def heartbeat_denoiser(x: Tensor, level: Tensor, condition: Condition) -> Prediction:
    """The mean of each bit of x_0 under p(x_0 | x)."""
    mean = which_heartbeat(x, level) @ heartbeats().double()
    return Prediction(mean, torch.zeros_like(mean))


class GaussianDenoiser:
    """Of data N(0, c^2): x_0's mean, and the variance of the step back as a mix of beta-tilde and beta."""

    def __init__(self, c: float, table: Tensor, first_variance: float = 1e-4) -> None:
        self.c, self.table, self.first_variance = c, table, first_variance

    def __call__(self, x: Tensor, level: Tensor, condition: Condition) -> Prediction:
        gamma = float(level[0])
        next_gamma = self.table[self.table > gamma].min()
        total = gamma * self.c**2 + 1 - gamma
        left = self.c**2 * (1 - gamma) / total  # variance of x_0 given x
        start, end = level[:1], next_gamma.reshape(1)
        small = posterior_variance(start, end).clamp(min=self.first_variance if next_gamma == 1 else 0)
        large = beta_between(start, end)
        of_x_0 = end.sqrt() * large / (1 - start)
        variance = posterior_variance(start, end) + of_x_0.square() * left
        mix = (variance.log() - small.log()) / (large.log() - small.log())
        x_0 = gamma**0.5 * self.c**2 / total * x
        return Prediction(x_0, torch.zeros_like(x), mix.to(x).expand_as(x))
