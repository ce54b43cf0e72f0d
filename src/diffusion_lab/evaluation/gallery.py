"""Pictures of an evaluation to look at: of each kind some of the worst, the middle and the best."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

SIDE = 128
"""Pixels of a picture that is looked at, at most."""

_ROOM = 256 * 2**20  # bytes that a row's completions may take until it is known which are looked at


class Shown(NamedTuple):
    """The pictures of a kind of question, each of them 8-bit and ``(3, s, s)``.

    Args:
        kind: its name.
        indices: of the n pictures, in order.
        truth: ``(n, 3, s, s)``.
        given: what every method is given, to be looked at: ``(n, 3, s, s)``.
        completions: by method, ``(n, k, 3, s, s)``.
    """

    kind: str
    indices: list[int]
    truth: Tensor
    given: Tensor
    completions: Mapping[str, Tensor]


def candidates(n: int, size: int, completions: int) -> int:
    """Of how many of n pictures the completions are kept until it is known which are looked at: of all, if they fit.

    Example:
        >>> candidates(100, 64, 1), candidates(100_000, 64, 1)
        (100, 21845)
    """
    return min(n, _ROOM // (3 * min(size, SIDE) ** 2 * completions))


def chosen(lpips: Tensor, count: int) -> list[int]:
    """Indices, in order, of the pictures to look at: a third each of the best, of the middle and of the worst.

    Example:
        >>> chosen(torch.tensor([0.9, 0.1, 0.5, 0.6, 0.2, 0.4, 0.8]), 3)
        [0, 1, 2]
    """
    order = lpips.argsort(stable=True).tolist()
    if len(order) <= count:
        return sorted(order)
    best, worst = (count + 2) // 3, (count + 1) // 3
    middle = count - best - worst
    start = min(max((len(order) - middle) // 2, best), len(order) - worst - middle)
    return sorted(order[:best] + order[start : start + middle] + order[len(order) - worst :])


def small(pictures: Tensor) -> Tensor:
    """8-bit pictures ``(..., 3, S, S)`` with at most `SIDE` pixels a side, on the CPU."""
    if pictures.shape[-1] <= SIDE or not pictures.numel():
        return pictures.cpu()
    lead = pictures.shape[:-3]
    reduced = nn.functional.interpolate(
        pictures.reshape(-1, *pictures.shape[-3:]).float(), (SIDE, SIDE), mode="bilinear", antialias=True
    )
    return reduced.round().clamp(0, 255).to(torch.uint8).reshape(*lead, 3, SIDE, SIDE).cpu()
