"""A batch that is not finite on the last rank alone, for a run of the script."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from diffusion_lab.data.datamodule import Batch


class Poison(Callback):
    """Spoils the pictures of the last rank in one step.

    Args:
        step: which.
    """

    def __init__(self, step: int) -> None:
        self.step = step
        self.skipped = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        if batch_idx == self.step and trainer.global_rank == trainer.world_size - 1:
            batch.image.fill_(float("nan"))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if batch_idx == self.step:
            print(f"rank {trainer.global_rank} skipped {pl_module.skipped}", flush=True)
