"""Matrices between many pictures and many others, some rows at a time."""

from __future__ import annotations

from torch import Tensor

ROWS = 1024


def blocks(x: Tensor) -> list[Tensor]:
    """The rows of a tensor, up to 1024 together."""
    return [x[start : start + ROWS] for start in range(0, len(x), ROWS)]
