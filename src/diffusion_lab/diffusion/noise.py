"""Randomness as an argument: one generator per example."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Noise = Callable[[], Tensor]
"""The next N(0, 1) like x; row i comes from example i's generator only."""


class ExampleNoise:
    """Noise whose row i depends on seed i and on nothing else: not on the batch, its order, or the number of devices.

    Args:
        seeds: one per example, each in [0, 2^63).
        shape: of one example, without the batch axis.
        device: where the noise is wanted.
        drawn_on: where it is drawn. None is the CPU: the same bits for every device. Training draws on the device,
            which is faster and repeats on the same kind of device.

    Example:
        >>> alone, together = ExampleNoise([7], (4,)), ExampleNoise([3, 7], (4,))
        >>> torch.equal(alone()[0], together()[1])
        True
    """

    def __init__(
        self,
        seeds: Sequence[int] | Tensor,
        shape: Sequence[int],
        device: torch.device | None = None,
        drawn_on: torch.device | None = None,
    ) -> None:
        self.shape = tuple(shape)
        self.device = device or torch.device("cpu")
        self.drawn_on = drawn_on or torch.device("cpu")
        self.generators = [torch.Generator(self.drawn_on).manual_seed(int(seed)) for seed in seeds]

    def __call__(self) -> Tensor:
        """``(B, *shape)`` float32 from N(0, 1)."""
        eps = torch.empty(len(self.generators), *self.shape, device=self.drawn_on)
        for row, generator in zip(eps, self.generators, strict=True):
            torch.randn(self.shape, generator=generator, out=row)
        return eps.to(self.device)

    def uniform(self, count: int) -> Tensor:
        """``(B, count)`` float64 from U[0, 1), on the CPU."""
        rows = [
            torch.rand(count, generator=generator, device=self.drawn_on, dtype=torch.float64)
            for generator in self.generators
        ]
        return torch.stack(rows).cpu()
