"""The forward process, its posterior, and x_0, eps and v from one another.

Levels are float64 on the CPU, one per example. Coefficients are computed there, limits at level 0 and 1 included, and
travel to the picture's device once.
"""

import torch
from torch import Tensor


def along(x: Tensor, *coefficients: Tensor) -> tuple[Tensor, ...]:
    """Per-example coefficients ``(B,)``, moved to x's device and dtype in one copy and shaped to multiply x."""
    moved = torch.stack(coefficients).to(device=x.device, dtype=x.dtype)
    return moved.reshape(len(coefficients), -1, *[1] * (x.ndim - 1)).unbind()


def over(numerator: Tensor, denominator: Tensor, otherwise: float = 0.0) -> Tensor:
    """The quotient, and the named limit where the denominator is 0."""
    return torch.where(denominator == 0, otherwise, numerator / denominator)


def add_noise(x_0: Tensor, eps: Tensor, level: Tensor) -> Tensor:
    """A picture at a level: sqrt(gamma) x_0 + sqrt(1 - gamma) eps (DDPM eq. 4)."""
    signal, sigma = along(x_0, level.sqrt(), (1 - level).sqrt())
    return signal * x_0 + sigma * eps


def renoise(x: Tensor, level: Tensor, lower_level: Tensor, eps: Tensor, inflated: float = 1.0) -> Tensor:
    """A picture carried from a level down to a noisier one (DDPM eq. 2, over several steps at once).

    Args:
        x: at `level`.
        level: ``(B,)``.
        lower_level: ``(B,)``.
        eps: like x, from N(0, 1).
        inflated: factor of the noise; EDM's S_noise is a little above 1, against a denoiser that removes too much.
    """
    ratio = over(lower_level, level)
    signal, sigma = along(x, ratio.sqrt(), inflated * (1 - ratio).clamp(min=0).sqrt())
    return signal * x + sigma * eps


def x_0_from_eps(x: Tensor, eps: Tensor, level: Tensor) -> Tensor:
    """(x - sigma eps) / signal (DDPM eq. 15); at level 0, where x says nothing of x_0, its mean 0."""
    scale, ratio = along(x, over(torch.ones_like(level), level.sqrt()), over((1 - level).sqrt(), level.sqrt()))
    return scale * x - ratio * eps


def eps_from_x_0(x: Tensor, x_0: Tensor, level: Tensor) -> Tensor:
    """(x - signal x_0) / sigma; at level 1, where x holds no noise, its mean 0."""
    scale, ratio = along(x, over(torch.ones_like(level), (1 - level).sqrt()), over(level.sqrt(), (1 - level).sqrt()))
    return scale * x - ratio * x_0


def velocity(x_0: Tensor, eps: Tensor, level: Tensor) -> Tensor:
    """Of Salimans & Ho 2022, v = signal eps - sigma x_0 (appendix D)."""
    signal, sigma = along(x_0, level.sqrt(), (1 - level).sqrt())
    return signal * eps - sigma * x_0


def x_0_from_v(x: Tensor, v: Tensor, level: Tensor) -> Tensor:
    """Signal x - sigma v."""
    signal, sigma = along(x, level.sqrt(), (1 - level).sqrt())
    return signal * x - sigma * v


def eps_from_v(x: Tensor, v: Tensor, level: Tensor) -> Tensor:
    """Sigma x + signal v."""
    signal, sigma = along(x, level.sqrt(), (1 - level).sqrt())
    return sigma * x + signal * v


def log_snr(level: Tensor) -> Tensor:
    """Natural log(gamma / (1 - gamma)); infinite at the two ends."""
    return level.log() - torch.log1p(-level)


def beta_between(level: Tensor, next_level: Tensor) -> Tensor:
    """Variance added between two levels, 1 - gamma / gamma'; `next_level` is the cleaner one. ``(B,)`` in [0, 1]."""
    return 1 - over(level, next_level, otherwise=1.0)


def posterior_variance(level: Tensor, next_level: Tensor) -> Tensor:
    """Beta-tilde, the variance of q(x' | x, x_0) (DDPM eq. 7); 0 when the step ends at level 1 or does not move."""
    return over(1 - next_level, 1 - level) * beta_between(level, next_level)


def posterior_mean(x: Tensor, x_0: Tensor, level: Tensor, next_level: Tensor) -> Tensor:
    """Mean of q(x' | x, x_0) (DDPM eq. 7): x itself when the step does not move."""
    beta = beta_between(level, next_level)
    of_x_0, of_x = along(
        x,
        over(next_level.sqrt() * beta, 1 - level),
        over((1 - beta).sqrt() * (1 - next_level), 1 - level, otherwise=1.0),
    )
    return of_x_0 * x_0 + of_x * x
