"""Data whose optimal denoiser is known in closed form, and the exact moments of what a sampler makes of it."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from diffusion_lab.diffusion.denoiser import Condition, Prediction


class Gaussian:
    """The optimal denoiser of N(mean, covariance), of pictures ``(B, 1, n)``; knows nothing of a condition."""

    condition_channels = 0

    def __init__(self, mean: list[float], covariance: list[list[float]]) -> None:
        self.mean = torch.tensor(mean, dtype=torch.float64)
        self.covariance = torch.tensor(covariance, dtype=torch.float64)
        self.variances, self.axes = torch.linalg.eigh(self.covariance)

    def __call__(self, x: Tensor, level: Tensor, condition: Condition) -> Prediction:
        gamma = level[:, None]
        along = (x[:, 0] - gamma.sqrt() * self.mean) @ self.axes / (gamma * self.variances + 1 - gamma)
        eps = (1 - gamma).sqrt() * along @ self.axes.T
        x_0 = self.mean + gamma.sqrt() * (along * self.variances) @ self.axes.T
        return Prediction(x_0[:, None], eps[:, None])


class ConditionalGaussian:
    """The optimal denoiser of the hole given the known pixels, which stand clean in x; all rows share one mask."""

    condition_channels = 3

    def __init__(self, whole: Gaussian) -> None:
        self.whole = whole

    def __call__(self, x: Tensor, level: Tensor, condition: Condition) -> Prediction:
        assert condition.mask is not None
        hole = condition.mask[0, 0]
        between = self.whole.covariance[hole][:, ~hole]
        gain = torch.linalg.solve(self.whole.covariance[~hole][:, ~hole], between.T).T
        covariance = self.whole.covariance[hole][:, hole] - gain @ between.T
        mean = self.whole.mean[hole] + (x[:, 0, ~hole] - self.whole.mean[~hole]) @ gain.T  # (B, holes)
        centred = Gaussian([0.0] * int(hole.sum()), covariance.tolist())
        said = centred((x[:, :, hole] - level[:, None, None].sqrt() * mean[:, None]), level, condition)
        x_0, eps = x.clone(), torch.zeros_like(x)
        x_0[:, :, hole], eps[:, :, hole] = said.x_0 + mean[:, None], said.eps
        return Prediction(x_0, eps)


Run = Callable[[Tensor, Callable[[], Tensor]], Tensor]
"""(x_T (B, 1, n), noise) -> samples (B, 1, n), affine in x_T and in every draw of the noise."""


def exact_moments(run: Run, n: int, draws: int) -> tuple[Tensor, Tensor]:
    """Mean ``(n,)`` and covariance ``(n, n)`` over all noise of an affine sampler, without a sampling error.

    One row of the batch has no noise at all; each of the others has a 1 in one place of one draw.
    """
    inputs = torch.zeros(draws + 1, 1 + n * (draws + 1), 1, n, dtype=torch.float64)
    for draw in range(draws + 1):
        for place in range(n):
            inputs[draw, 1 + draw * n + place, 0, place] = 1
    noise: Iterator[Tensor] = iter(inputs[1:])
    out = run(inputs[0], lambda: next(noise))[:, 0]
    response = out[1:] - out[0]
    return out[0], response.T @ response
