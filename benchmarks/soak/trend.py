"""Whether something grows: a line of least squares, and how sure it is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Trend:
    """A straight line through values over time.

    Args:
        level: the mean.
        slope: per unit of time.
        error: standard error of the slope, widened where neighbouring residuals resemble each other.
    """

    level: float
    slope: float
    error: float

    def grows(self, tolerance: float) -> bool:
        """Whether two standard errors below the slope is still more than is tolerated per unit of time."""
        return self.slope - 2 * self.error > tolerance


def trend(times: Sequence[float], values: Sequence[float]) -> Trend:
    """The line through some values; three at least.

    Residuals are taken for an AR(1) process: with correlation r of neighbours, n of them tell as much about a mean as
    n (1 - r) / (1 + r) independent ones.
    """
    if len(times) < 3:
        raise ValueError(f"a trend with its error takes 3 values, got {len(times)}")
    x, y = np.asarray(times, float), np.asarray(values, float)
    x = x - x.mean()
    spread = float(x @ x)
    slope = float(x @ y) / spread
    rest = y - y.mean() - slope * x
    squares = float(rest @ rest)
    alike = 0.0 if squares == 0 else min(max(float(rest[1:] @ rest[:-1]) / squares, 0.0), 0.95)
    error = math.sqrt(squares / (len(x) - 2) / spread * (1 + alike) / (1 - alike))
    return Trend(float(y.mean()), slope, error)
