"""Which pictures make which batch: a pure function of (seed, step), cut over the ranks.

A step's batch does not depend on the number of devices or workers nor on where a run was interrupted.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler


class Draw(NamedTuple):
    """The pictures that a rank takes for one step."""

    epoch: int
    indices: Tensor  # int64 (B,)


class TrainingBatches(Sampler[Draw]):
    """Batches of steps ``start`` to ``stop - 1``, each of them the part of one rank.

    Step k belongs to epoch k // (count // batch_size); each epoch shuffles anew and drops its last, partial batch.

    Args:
        count: number of pictures.
        batch_size: pictures of a batch over all ranks.
        seed: of the shuffling.
        start: first step.
        stop: step before which to stop.
        rank: takes pictures rank, rank + world, ... of each batch.
        world: number of ranks.

    Raises:
        ValueError: a batch cannot be filled, or not be cut into equal parts.

    Examples:
        >>> [draw.epoch for draw in TrainingBatches(count=10, batch_size=4, seed=0, start=0, stop=5)]
        [0, 0, 1, 1, 2]
    """

    def __init__(
        self, count: int, batch_size: int, seed: int, start: int, stop: int, rank: int = 0, world: int = 1
    ) -> None:
        if not 1 <= batch_size <= count:
            raise ValueError(
                f"data.batch_size={batch_size} cannot be filled from {count} training pictures; set it to 1..{count}."
            )
        if batch_size % world:
            raise ValueError(
                f"data.batch_size={batch_size} is for all devices together and cannot be divided over {world}; "
                f"set it to a multiple of {world}."
            )
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.start, self.stop, self.rank, self.world = start, stop, rank, world

    def __iter__(self) -> Iterator[Draw]:
        """The draws that are left from ``start`` on."""
        per_epoch = self.count // self.batch_size
        epoch, order = -1, torch.empty(0)
        for step in range(self.start, self.stop):
            if step // per_epoch != epoch:
                epoch = step // per_epoch
                order = self._order(epoch)
            first = step % per_epoch * self.batch_size
            yield Draw(epoch, order[first : first + self.batch_size][self.rank :: self.world])

    def __len__(self) -> int:
        """Steps of the whole run, those before ``start`` too: Lightning counts a resumed epoch from its beginning."""
        return self.stop

    def _order(self, epoch: int) -> Tensor:
        words = np.random.SeedSequence((self.seed, epoch)).generate_state(1, np.uint64)
        return torch.randperm(self.count, generator=torch.Generator().manual_seed(int(words[0] >> 1)))


class EvaluationBatches(Sampler[Tensor]):
    """Every picture exactly once over all ranks, in order and without padding, so that ranks may differ by one picture.

    Args:
        count: number of pictures.
        batch_size: pictures of a batch of one rank.
        rank: takes pictures rank, rank + world, ...
        world: number of ranks.

    Examples:
        >>> [batch.tolist() for batch in EvaluationBatches(count=5, batch_size=2, rank=0, world=2)]
        [[0, 2], [4]]
    """

    def __init__(self, count: int, batch_size: int, rank: int = 0, world: int = 1) -> None:
        self.indices = torch.arange(count)[rank::world]
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[Tensor]:
        """Indices of one batch after the other."""
        return (self.indices[i : i + self.batch_size] for i in range(0, len(self.indices), self.batch_size))

    def __len__(self) -> int:
        """Number of batches of this rank."""
        return -(-len(self.indices) // self.batch_size)
