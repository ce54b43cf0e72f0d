"""Data whose optimal denoiser is known, whole and given a part: mixtures of Gaussians that share a covariance.

p(x_0) = sum_k w_k N(x_0; m_k, C), so that at a level p(x) = sum_k w_k N(x; signal m_k, signal^2 C + sigma^2).
One component is a Gaussian; many along a curve, closer than C is wide, are an integral over it. What is left of x_0
once a part of it is known is a mixture again: so a sampler that fills a hole can be compared with what is right.
Numbers are float64, as the exact answer should be.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from diffusion_lab.diffusion.denoiser import Condition, Prediction


class Mixture:
    """The optimal denoiser of a mixture, of examples ``(B, ...)`` of n numbers; knows nothing of a condition.

    Args:
        log_weights: ``(K,)``, of any sum.
        means: ``(K, n)``.
        covariance: ``(n, n)``, the same around every mean.
    """

    condition_channels = 0

    def __init__(self, log_weights: Tensor, means: Tensor, covariance: Tensor) -> None:
        self.log_weights = log_weights.double().log_softmax(0)
        self.means, self.covariance = means.double(), covariance.double()
        self.variances, self.axes = torch.linalg.eigh(self.covariance)
        along = (self.means @ self.axes).T  # (n, K)
        self.features = torch.cat([along, along.square(), torch.ones_like(along[:1])])

    @property
    def mean(self) -> Tensor:
        """``(n,)``, of x_0."""
        return self.log_weights.exp() @ self.means

    def draw(self, count: int, generator: Generator) -> Tensor:
        """Examples ``(count, n)``."""
        chosen = torch.multinomial(self.log_weights.exp(), count, replacement=True, generator=generator)
        return self.means[chosen] + gaussian_noise((count,), self.covariance, generator)

    def log_joint(self, x: Tensor, level: Tensor, log_weights: Tensor) -> Tensor:
        """Logarithm of w_k p(x | k) for x ``(B, n)`` at a level and ``(K,)`` or ``(B, K)`` weights: ``(B, K)``."""
        gamma, along = level[:, None], x @ self.axes
        variance = gamma * self.variances + 1 - gamma
        # -1/2 the square of x - signal m_k over the variance, multiplied out: one product of matrices for all k.
        of_x = (along.square() / variance + (2 * math.pi * variance).log()).sum(1, keepdim=True)
        terms = torch.cat([gamma.sqrt() * along / variance, -gamma / variance / 2, -of_x / 2], dim=1)
        return torch.addmm(log_weights, terms, self.features)

    def seen(self, x: Tensor, level: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        """E x_0 and E eps of x ``(B, n)``, where component k has the share ``(B, K)`` of p(k | x)."""
        gamma, mean = level[:, None], shares @ self.means
        off = (x - gamma.sqrt() * mean) @ self.axes / (gamma * self.variances + 1 - gamma)
        x_0 = mean + gamma.sqrt() * (off * self.variances) @ self.axes.T
        return x_0, (1 - gamma).sqrt() * off @ self.axes.T

    def __call__(self, x: Tensor, level: Tensor, condition: Condition) -> Prediction:
        flat = x.flatten(1)
        x_0, eps = self.seen(flat, level, self.log_joint(flat, level, self.log_weights).softmax(1))
        return Prediction(x_0.reshape_as(x), eps.reshape_as(x))


def gaussian(mean: Sequence[float], covariance: Sequence[Sequence[float]]) -> Mixture:
    """A mixture of one."""
    return Mixture(*(torch.tensor(numbers, dtype=torch.float64) for numbers in ([0.0], [mean], covariance)))


def gaussian_noise(count: Sequence[int], covariance: Tensor, generator: Generator) -> Tensor:
    """From N(0, covariance), ``(*count, n)``."""
    z = torch.randn(*count, len(covariance), generator=generator, dtype=torch.float64)
    factor: Tensor = torch.linalg.cholesky(covariance)
    return z @ factor.T


class GivenTheRest:
    """The optimal denoiser of the hole given the known numbers, which stand clean in x; all rows share one hole.

    Args:
        whole: of the whole example.
        hole: ``(n,)`` bool.
    """

    condition_channels = 3

    def __init__(self, whole: Mixture, hole: Tensor) -> None:
        self.hole = hole
        known, between = whole.covariance[~hole][:, ~hole], whole.covariance[hole][:, ~hole]
        self.gain = torch.linalg.solve(known, between.T).T
        self.rest = Mixture(whole.log_weights, whole.means[:, ~hole], known)
        # Of the hole less what the known numbers add to it; its weights are left to `rest`.
        self.less = Mixture(
            torch.zeros_like(whole.log_weights),
            whole.means[:, hole] - whole.means[:, ~hole] @ self.gain.T,
            whole.covariance[hole][:, hole] - self.gain @ between.T,
        )

    def log_weights(self, known: Tensor) -> Tensor:
        """Logarithm of w_k p(known | k) for known numbers ``(B, n - holes)``, ``(B, K)``."""
        return self.rest.log_joint(known, torch.ones(len(known), dtype=torch.float64), self.rest.log_weights)

    def __call__(self, x: Tensor, level: Tensor, condition: Condition) -> Prediction:
        flat = x.flatten(1)
        known = flat[:, ~self.hole]
        added = known @ self.gain.T
        less = flat[:, self.hole] - level[:, None].sqrt() * added
        shares = self.less.log_joint(less, level, self.log_weights(known)).softmax(1)
        x_0, eps = flat.clone(), torch.zeros_like(flat)
        said, eps[:, self.hole] = self.less.seen(less, level, shares)
        x_0[:, self.hole] = said + added
        return Prediction(x_0.reshape_as(x), eps.reshape_as(x))

    def posterior(self, known: Tensor) -> "Posterior":
        """What is left of the hole, for S known parts ``(S, n - holes)``."""
        means = self.less.means + (known @ self.gain.T)[:, None]
        return Posterior(self.log_weights(known).softmax(1), means, self.less.covariance)


@dataclass(frozen=True)
class Posterior:
    """S mixtures of h numbers: the hole given each of S known parts.

    Args:
        weights: ``(S, K)``, of sum 1.
        means: ``(S, K, h)``.
        covariance: ``(h, h)``.
    """

    weights: Tensor
    means: Tensor
    covariance: Tensor

    @property
    def mean(self) -> Tensor:
        """``(S, h)``."""
        return (self.weights[:, None] @ self.means)[:, 0]

    @property
    def variance(self) -> Tensor:
        """``(S, h)``, of each number."""
        apart = (self.means - self.mean[:, None]).square()
        return self.covariance.diag() + (self.weights[:, None] @ apart)[:, 0]

    def cdf(self, x: Tensor) -> Tensor:
        """P(number <= x), of each number of x ``(S, m, h)`` by itself."""
        deviation = self.covariance.diag().sqrt()
        below = torch.special.ndtr((x[:, :, None] - self.means[:, None]) / deviation)  # (S, m, K, h)
        return torch.einsum("sk,smkh->smh", self.weights, below)

    def draw(self, count: int, generator: Generator) -> Tensor:
        """Samples ``(S, count, h)``."""
        chosen = torch.multinomial(self.weights, count, replacement=True, generator=generator)  # (S, count)
        means = self.means.gather(1, chosen[:, :, None].expand(-1, -1, self.means.shape[2]))
        return means + gaussian_noise(chosen.shape, self.covariance, generator)
