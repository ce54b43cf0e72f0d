"""Randomness as an argument: row i of any draw depends on example i's seed and on nothing else."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Noise = Callable[[], Tensor]
"""The next N(0, 1) like x; row i comes from example i's generator only."""


class ExampleNoise:
    """Noise from one of PyTorch's generators for each example: what samples.

    Drawn on the CPU, so that a seed means the same bits on every device.

    Args:
        seeds: one per example, each in [0, 2^63).
        shape: of one example, without the batch axis.
        device: where the noise is wanted; None is the CPU.

    Example:
        >>> alone, together = ExampleNoise([7], (4,)), ExampleNoise([3, 7], (4,))
        >>> torch.equal(alone()[0], together()[1])
        True
    """

    def __init__(self, seeds: Sequence[int] | Tensor, shape: Sequence[int], device: torch.device | None = None) -> None:
        self.shape = tuple(shape)
        self.device = device or torch.device("cpu")
        self.generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]

    def __call__(self) -> Tensor:
        """``(B, *shape)`` float32 from N(0, 1)."""
        eps = torch.empty(len(self.generators), *self.shape)
        for row, generator in zip(eps, self.generators, strict=True):
            torch.randn(self.shape, generator=generator, out=row)
        return eps.to(self.device)


class KeyedNoise:
    """Noise that is a hash of key and position, all rows at once on the keys' device: what trains.

    A generator for each of 256 examples costs a GPU 11 ms a step, most of it for starting kernels. The words are
    SplitMix64's (Steele, Lea & Flood 2014), the normals are Box and Muller's; devices agree but for the rounding of
    logarithm and cosine.

    Args:
        keys: int64 ``(B,)``, themselves random; neighbouring ones do as well.
        shape: of one example, without the batch axis.

    Example:
        >>> alone, together = KeyedNoise(torch.tensor([7]), (4,)), KeyedNoise(torch.tensor([3, 7]), (4,))
        >>> torch.equal(alone()[0], together()[1])
        True
    """

    def __init__(self, keys: Tensor, shape: Sequence[int]) -> None:
        self.keys = keys
        self.shape = tuple(shape)
        self.used = 0  # words of every row

    def words(self, count: int) -> Tensor:
        """The next 64 random bits, ``(B, count)`` int64."""
        positions = torch.arange(self.used + 1, self.used + count + 1, device=self.keys.device)
        self.used += count
        z = self.keys[:, None] + positions * GOLDEN_GAMMA  # int64 wraps around, as it should
        z = (z ^ shifted(z, 30)) * MIX_1
        z = (z ^ shifted(z, 27)) * MIX_2
        return z ^ shifted(z, 31)

    def __call__(self) -> Tensor:
        """``(B, *shape)`` float32 from N(0, 1)."""
        size = math.prod(self.shape)
        words = self.words((size + 1) // 2)
        high, low = shifted(words, 32), words & 0xFFFF_FFFF
        radius = torch.sqrt(-2 * torch.log((high.float() + 0.5) * 2.0**-32))  # up to 6.8
        angle = low.float() * (math.tau * 2.0**-32)
        normals = torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)
        return normals[:, :size].reshape(-1, *self.shape)

    def uniform(self, count: int) -> Tensor:
        """``(B, count)`` float64 from U[0, 1), on the CPU."""
        return shifted(self.words(count), 11).cpu().double() * 2.0**-53


GOLDEN_GAMMA, MIX_1, MIX_2 = (
    word - 2**64 for word in (0x9E37_79B9_7F4A_7C15, 0xBF58_476D_1CE4_E5B9, 0x94D0_49BB_1331_11EB)
)


def shifted(words: Tensor, by: int) -> Tensor:
    """To the right with zeros from the left, which int64 does not do by itself."""
    return (words >> by) & ((1 << 64 - by) - 1)
