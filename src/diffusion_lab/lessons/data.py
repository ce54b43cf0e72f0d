"""The data of the lessons: the swiss roll and the heartbeat, drawn by a formula whose likelihood is known."""

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import cast

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from diffusion_lab.data.batches import Draw, EvaluationBatches, TrainingBatches
from diffusion_lab.data.crops import Crop
from diffusion_lab.data.datamodule import CountsBatches, StepLoader
from diffusion_lab.data.examples import Batch

DrawExamples = Callable[[int, Generator], Tensor]
"""(count, generator) -> examples (count, D)."""

TURNS = (1.5 * math.pi, 4.5 * math.pi)  # the angles between which the roll winds
LENGTH = math.sqrt((TURNS[1] ** 3 - TURNS[0] ** 3) / (TURNS[1] - TURNS[0]) / 6)  # root of its mean square, each axis
PERIOD, PLACES = 5, 20


def roll(angle: Tensor, noise: float) -> Tensor:
    """The roll's middle line at angles ``(N,)``: ``(N, 2)``, scaled so that roll and noise have mean square 1."""
    line = angle[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
    return line * math.sqrt(1 - noise**2) / LENGTH


def swiss_roll(count: int, generator: Generator, noise: float = 0.05) -> Tensor:
    """Points ``(count, 2)`` of a swiss roll with Gaussian noise of this standard deviation, of mean square 1.

    Example:
        >>> points = swiss_roll(100_000, Generator().manual_seed(0))
        >>> round(points.square().mean().item(), 2)
        1.0
    """
    angle = TURNS[0] + (TURNS[1] - TURNS[0]) * torch.rand(count, generator=generator)
    return roll(angle, noise) + noise * torch.randn(count, 2, generator=generator)


def swiss_roll_bits(points: Tensor, noise: float = 0.05, pieces: int = 4000) -> Tensor:
    """-log2 of the roll's density at points ``(N, 2)``: a sum over pieces of its line, far shorter than the noise."""
    edges = torch.linspace(*TURNS, pieces + 1, dtype=torch.float64)
    apart = torch.cdist(points.double(), roll((edges[1:] + edges[:-1]) / 2, noise)) / noise
    nats = torch.logsumexp(-0.5 * apart.square(), dim=1) - math.log(pieces * 2 * math.pi * noise**2)
    return -nats / math.log(2)


def ring(modes: int, noise: float) -> Tensor:
    """Centres ``(modes, 2)`` on a circle, so wide that with Gaussian noise on them the points have mean square 1."""
    angle = 2 * math.pi * torch.arange(modes) / modes
    return torch.stack([angle.cos(), angle.sin()], dim=1) * math.sqrt(2 * (1 - noise**2))


def rings(count: int, generator: Generator, modes: int = 8, noise: float = 0.05) -> Tensor:
    """Points ``(count, 2)`` of a ring of Gaussians, each as likely as the others."""
    chosen = torch.randint(modes, (count,), generator=generator)
    return ring(modes, noise)[chosen] + noise * torch.randn(count, 2, generator=generator)


def ring_bits(points: Tensor, modes: int = 8, noise: float = 0.05) -> Tensor:
    """-log2 of the ring's density at points ``(N, 2)``."""
    apart = torch.cdist(points.double(), ring(modes, noise).double()) / noise
    nats = torch.logsumexp(-0.5 * apart.square(), dim=1) - math.log(modes * 2 * math.pi * noise**2)
    return -nats / math.log(2)


def heartbeats() -> Tensor:
    """The five sequences ``(5, 20)`` that are all there is: 1 at every fifth place, -1 elsewhere."""
    places = torch.arange(PLACES)
    return torch.stack([torch.where(places % PERIOD == phase, 1.0, -1.0) for phase in range(PERIOD)])


def heartbeat(count: int, generator: Generator) -> Tensor:
    """Sequences ``(count, 20)`` of spins, each phase as likely as the others: -log2 p = log2(5) = 2.322 bits.

    Example:
        >>> heartbeat(1, Generator().manual_seed(0)).int().tolist()[0][:10]
        [-1, -1, -1, -1, 1, -1, -1, -1, -1, 1]
    """
    return heartbeats()[torch.randint(PERIOD, (count,), generator=generator)]


def heartbeat_bits(sequences: Tensor) -> Tensor:
    """-log2 p of heartbeats ``(N, 20)``, log2(5) each."""
    return torch.full((len(sequences),), math.log2(PERIOD))


class Examples(Dataset[Batch]):
    """Examples, all of whose places are to be drawn; keys by (seed, epoch, index) alone."""

    def __init__(self, examples: Tensor, seed: int) -> None:
        self.examples, self.seed = examples, seed

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.examples)

    def __getitems__(self, draw: Draw | Tensor) -> Batch:
        """The whole batch of a draw; of indices, as of epoch 0."""
        epoch, indices = draw if isinstance(draw, tuple) else (0, draw)
        words = [
            np.random.SeedSequence((self.seed, epoch, index)).generate_state(1, np.uint64)[0] >> 1
            for index in indices.tolist()
        ]
        x = self.examples[indices]
        keys = torch.tensor(words, dtype=torch.int64)
        return Batch(x, torch.ones_like(x, dtype=torch.bool), indices, keys, torch.empty(len(x), 0), x)


class DrawnData(LightningDataModule):
    """Examples drawn by a formula, once, and batched as pictures are.

    Args:
        name: goes with every reported number.
        draw: makes the examples.
        image_size: D, numbers of an example.
        batch_size: examples of a step over all devices.
        seed: of the order and of the training noise; the examples do not depend on it.
        train: number of training examples.
        valid: number of validation examples; as many test.
    """

    def __init__(
        self, name: str, draw: DrawExamples, image_size: int, batch_size: int, seed: int, train: int, valid: int
    ) -> None:
        super().__init__()
        self.name, self.draw, self.image_size, self.batch_size, self.seed = name, draw, image_size, batch_size, seed
        self.crop = Crop("none")
        self.attributes: Sequence[str] = ()
        self.counts = {"train": train, "valid": valid, "test": valid}

    @cached_property
    def splits(self) -> dict[str, Tensor]:
        """Examples of train, valid and test."""
        seeds = {"train": 0, "valid": 1, "test": 2}
        return {split: self.draw(n, Generator().manual_seed(seeds[split])) for split, n in self.counts.items()}

    def train_dataloader(self) -> DataLoader[Batch]:
        """The batches that are left of the whole run; without a trainer those of the first epoch."""
        start, stop = 0, self.counts["train"] // self.batch_size
        if self.trainer is not None:
            start = cast(CountsBatches, self.trainer.lightning_module).batches_seen
            if self.trainer.max_steps >= 0:
                stop = self.trainer.max_steps * self.trainer.accumulate_grad_batches
        batches = TrainingBatches(self.counts["train"], self.batch_size, self.seed, start, stop, *self._place())
        return loader(Examples(self.splits["train"], self.seed), batches)

    def val_dataloader(self) -> DataLoader[Batch]:
        """The validation examples of this rank, each once."""
        rank, world = self._place()
        batches = EvaluationBatches(self.counts["valid"], max(1, self.batch_size // world), rank, world)
        return loader(Examples(self.splits["valid"], seed=1), batches)

    def _place(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)


def loader(examples: Examples, batches: Sampler[Draw] | Sampler[Tensor]) -> DataLoader[Batch]:
    """Whole batches, made in this process."""
    return StepLoader(examples, batch_sampler=batches, collate_fn=whole)  # type: ignore[arg-type]


def whole(batch: Batch) -> Batch:
    """The data set makes whole batches; there is nothing to collate."""
    return batch
