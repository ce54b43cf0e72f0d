"""The data of the lessons as Lightning takes them: examples drawn by a formula, batched as pictures are."""

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
