"""The exact moments of what a sampler makes of a Gaussian."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

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
