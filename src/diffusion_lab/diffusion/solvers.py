"""Solvers: one step from a level to a cleaner one."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from diffusion_lab.diffusion.denoiser import Prediction
from diffusion_lab.diffusion.noise import Noise
from diffusion_lab.diffusion.process import along, beta_between, log_snr, over, posterior_mean, posterior_variance

Memory = tuple[Tensor, ...]
"""What a solver carries between steps; every tensor is (B, ...), so that rows can be gathered and joined."""


class Solver(Protocol):
    """One step from `level` to `next_level` >= `level`, both ``(B,)``."""

    def start(self, x: Tensor) -> Memory:
        """The memory before the first step: "no history yet" is data, not a case."""

    def __call__(
        self, x: Tensor, prediction: Prediction, level: Tensor, next_level: Tensor, noise: Noise, memory: Memory
    ) -> tuple[Tensor, Memory]: ...


def log_variance(
    x: Tensor,
    prediction: Prediction,
    level: Tensor,
    next_level: Tensor,
    variance_mix: float,
    least: float = 1e-30,
) -> Tensor:
    """Logarithm of an ancestral step's variance, of a shape that multiplies x (iDDPM eq. 15).

    Args:
        x: where the step starts.
        prediction: a network that learned the mix has the last word.
        level: of x.
        next_level: of the step's end.
        variance_mix: linear in the logarithm between beta-tilde (0) and beta (1).
        least: stands in for a smaller variance, such as beta-tilde's 0 in the step that ends at level 1.
    """
    small, large = posterior_variance(level, next_level), beta_between(level, next_level)
    log_small, log_large = along(x, small.clamp(min=least).log(), large.clamp(min=least).log())
    mix = variance_mix if prediction.variance_mix is None else prediction.variance_mix
    return log_small + mix * (log_large - log_small)


def step_variance(x: Tensor, prediction: Prediction, level: Tensor, next_level: Tensor, variance_mix: float) -> Tensor:
    """Sigma of an ancestral step: `log_variance`'s, and beta in the step that ends at level 1 (DDPM's sigma_1)."""
    ends, beta = along(x, (next_level == 1).double(), beta_between(level, next_level))
    return torch.where(ends > 0, beta, log_variance(x, prediction, level, next_level, variance_mix).exp())


class Ancestral:
    """DDPM's step (algorithm 2): x' ~ N(mean of q(x' | x, x_0), Sigma).

    Args:
        variance_mix: Sigma between beta-tilde (0) and beta (1), log-linearly (iDDPM eq. 15): 0 is DDPM's small fixed
            variance, 1 its large one. A network that learned it has the last word. The step that ends at level 1
            adds no noise.
    """

    def __init__(self, variance_mix: float = 0.0) -> None:
        if not 0 <= variance_mix <= 1:
            raise ValueError(f"variance_mix must be in [0, 1], got {variance_mix}")
        self.variance_mix = variance_mix

    def start(self, x: Tensor) -> Memory:
        return ()

    def __call__(
        self, x: Tensor, prediction: Prediction, level: Tensor, next_level: Tensor, noise: Noise, memory: Memory
    ) -> tuple[Tensor, Memory]:
        mean = posterior_mean(x, prediction.x_0, level, next_level)
        if not bool((next_level < 1).any()):
            return mean, memory
        (noisy,) = along(x, ((level < next_level) & (next_level < 1)).double())
        variance = step_variance(x, prediction, level, next_level, self.variance_mix)
        return mean + noisy * variance.sqrt() * noise(), memory


class DDIM:
    """DDIM's step (eq. 12): x' = signal' x_0 + sqrt(sigma'^2 - eta^2 v) eps + eta sqrt(v) z.

    Given x_0, x' has the forward process's distribution whatever eta and v are. So there is nothing to learn: the
    variance of a network that learned one belongs to `Ancestral`, and has no say here.

    Args:
        eta: in [0, 1]; 0 is deterministic.
        largest: v, a function of level and next level that is at most sigma'^2. Beta-tilde is the paper's (eq. 16; eta
            1 is ancestral sampling), `all_of_it` is DDNM's.
    """

    def __init__(self, eta: float = 0.0, largest: Callable[[Tensor, Tensor], Tensor] = posterior_variance) -> None:
        if not 0 <= eta <= 1:
            raise ValueError(f"eta must be in [0, 1], got {eta}")
        self.eta = eta
        self.largest = largest

    def start(self, x: Tensor) -> Memory:
        return ()

    def __call__(
        self, x: Tensor, prediction: Prediction, level: Tensor, next_level: Tensor, noise: Noise, memory: Memory
    ) -> tuple[Tensor, Memory]:
        drawn = self.eta**2 * self.largest(level, next_level)
        signal, kept, fresh = along(x, next_level.sqrt(), (1 - next_level - drawn).clamp(min=0).sqrt(), drawn.sqrt())
        mean = signal * prediction.x_0 + kept * prediction.eps
        if self.eta == 0 or not bool((next_level < 1).any()):
            return mean, memory
        return mean + fresh * noise(), memory


def all_of_it(level: Tensor, next_level: Tensor) -> Tensor:
    """The noise of x' is drawn anew, all of it at eta 1: sigma'^2 (DDNM's program; its paper has beta-tilde)."""
    return 1 - next_level


class DPMSolver:
    """DPM-Solver++(2M) (Lu et al. 2022b, algorithm 2) and its SDE form, SDE-DPM-Solver++(2M).

    In h = lambda' - lambda, the step in half the log-SNR, the exact solution of a linear x_0 is followed:
    x' = (sigma' / sigma) e^(-eta h) x + signal' (1 - e^(-(1 + eta) h)) D + sigma' sqrt(1 - e^(-2 eta h)) z, where
    D = x_0 + h / (2 h_previous) (x_0 - x_0 previous) looks half a step ahead.
    The first step, and a last one that ends at level 1 (h infinite), are of first order: D = x_0.

    Args:
        eta: 0 follows the probability flow, 1 the reverse SDE; in [0, 1].
    """

    def __init__(self, eta: float = 0.0) -> None:
        if not 0 <= eta <= 1:
            raise ValueError(f"eta must be in [0, 1], got {eta}")
        self.eta = eta

    def start(self, x: Tensor) -> Memory:
        return x.new_zeros(x.shape), torch.full((len(x),), torch.inf, dtype=torch.float64)

    def __call__(
        self, x: Tensor, prediction: Prediction, level: Tensor, next_level: Tensor, noise: Noise, memory: Memory
    ) -> tuple[Tensor, Memory]:
        previous_x_0, previous_h = memory
        h = torch.where(next_level > level, (log_snr(next_level) - log_snr(level)) / 2, 0.0)
        ahead = torch.where(h.isinf(), 0.0, over(h, 2 * previous_h))
        far = h.clamp(max=torch.finfo(h.dtype).max)  # as good as infinite, but 0 times it is 0
        stay, towards, of_x, spread, slope = along(
            x,
            over((1 - next_level).sqrt(), (1 - level).sqrt(), otherwise=1.0),
            -torch.expm1(-(1 + self.eta) * far) * next_level.sqrt(),
            torch.exp(-self.eta * far),
            torch.sqrt(-torch.expm1(-2 * self.eta * far) * (1 - next_level)),
            ahead,
        )
        x_0 = prediction.x_0
        x = stay * of_x * x + towards * (x_0 + slope * (x_0 - previous_x_0))
        if self.eta > 0 and bool((next_level < 1).any()):
            x = x + spread * noise()
        return x, (x_0, h)


class Heun:
    """Heun's second-order step (EDM, algorithms 1 and 2), a predictor and a corrector that are two moves of the path.

    The path repeats its inner levels, a, b, b, c, c, ..., 1 (`paths.heun_path`): the move from a to b is Euler's in
    sigma / signal, which is DDIM's; the move from b to b replaces the slope that it used, eps at a, by its mean with
    eps at b. Churn is a rise in the path. On a path without repeats it is DDIM.
    """

    def start(self, x: Tensor) -> Memory:
        return x.new_zeros(x.shape), torch.zeros(len(x), dtype=torch.float64)

    def __call__(
        self, x: Tensor, prediction: Prediction, level: Tensor, next_level: Tensor, noise: Noise, memory: Memory
    ) -> tuple[Tensor, Memory]:
        previous_eps, previous_length = memory
        # Weight of eps in x' = (signal' / signal) x + length eps. At level 0 it is infinite: no correction.
        signal, next_signal, sigma, next_sigma = (
            level.sqrt(),
            next_level.sqrt(),
            (1 - level).sqrt(),
            (1 - next_level).sqrt(),
        )
        length = torch.where(level > 0, next_sigma - sigma * over(next_signal, signal), 0.0)
        corrects = next_level == level
        to_x_0, to_eps, correction, stays = along(
            x, next_signal, next_sigma, previous_length / 2, corrects.to(torch.float64)
        )
        predicted = to_x_0 * prediction.x_0 + to_eps * prediction.eps
        corrected = x + correction * (prediction.eps - previous_eps)
        return torch.where(stays > 0, corrected, predicted), (prediction.eps, length)
