"""Solvers: one step from a level to a cleaner one."""

from typing import Protocol

import torch
from torch import Tensor

from diffusion_lab.diffusion.denoiser import Prediction
from diffusion_lab.diffusion.noise import Noise
from diffusion_lab.diffusion.process import along, beta_between, posterior_variance

Memory = tuple[Tensor, ...]
"""What a solver carries between steps; every tensor is (B, ...), so that rows can be gathered and joined."""


class Solver(Protocol):
    """One step from `level` to `next_level` >= `level`, both ``(B,)``."""

    def start(self, x: Tensor) -> Memory:
        """The memory before the first step: "no history yet" is data, not a case."""

    def __call__(
        self, x: Tensor, prediction: Prediction, level: Tensor, next_level: Tensor, noise: Noise, memory: Memory
    ) -> tuple[Tensor, Memory]: ...


class Ancestral:
    """DDPM and DDIM in one step (DDIM eq. 12): x' = signal' x_0 + sqrt(sigma'^2 - eta^2 beta-tilde) eps + s z.

    With eta = 1 it is ancestral sampling (DDPM algorithm 2), with eta = 0 deterministic DDIM.

    Args:
        eta: share of the posterior's noise, in [0, 1].
        variance_mix: s^2 between eta^2 beta-tilde (0) and beta (1), log-linearly (iDDPM eq. 15): 0 is DDPM's small fixed
            variance, 1 its large one. A network that learned it has the last word. The step that ends at level 1 adds no noise.
    """

    def __init__(self, eta: float = 1.0, variance_mix: float = 0.0) -> None:
        if not (0 <= eta <= 1 and 0 <= variance_mix <= 1):
            raise ValueError(f"eta and variance_mix must be in [0, 1], got {eta} and {variance_mix}")
        self.eta = eta
        self.variance_mix = variance_mix

    def start(self, x: Tensor) -> Memory:
        return ()

    def __call__(
        self, x: Tensor, prediction: Prediction, level: Tensor, next_level: Tensor, noise: Noise, memory: Memory
    ) -> tuple[Tensor, Memory]:
        small = self.eta**2 * posterior_variance(level, next_level)
        signal, direction = along(x, next_level.sqrt(), (1 - next_level - small).clamp(min=0).sqrt())
        mean = signal * prediction.x_0 + direction * prediction.eps
        noisy = (next_level < 1) & (beta_between(level, next_level) > 0)
        if self.eta == 0 or not bool(noisy.any()):
            return mean, memory
        log_small, log_large, moving = along(
            x, small.clamp(min=1e-30).log(), beta_between(level, next_level).clamp(min=1e-30).log(), noisy.double()
        )
        mix = self.variance_mix if prediction.variance_mix is None else prediction.variance_mix
        return mean + moving * torch.exp(0.5 * (log_small + mix * (log_large - log_small))) * noise(), memory
