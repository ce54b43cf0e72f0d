"""How far a run has come."""

import time
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from diffusion_lab.data.examples import Batch


class Bar(ProgressBar):
    """Step, loss, pictures per second and time left; on a terminal as a bar, elsewhere as a line now and then.

    The rate is that of the steps between the last two lines of metrics, so that a slow start is soon forgotten.

    Args:
        seconds: between lines where there is no terminal.
    """

    def __init__(self, seconds: float = 15.0) -> None:
        super().__init__()
        self.seconds = seconds
        self.console = Console()
        self.progress: Progress | None = None
        self.enabled = True
        self.spoke = self.since = 0.0
        self.pictures = 0  # since then
        self.rate: float | None = None

    def disable(self) -> None:
        self.enabled = False

    def enable(self) -> None:
        self.enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.since = self.spoke = time.monotonic()
        if self.enabled and self.console.is_terminal:
            self.progress = Progress(
                TextColumn("training"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self.progress.add_task("", total=trainer.max_steps, completed=trainer.global_step, note="")
            self.progress.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.pictures += len(batch.index) * trainer.world_size
        now = time.monotonic()
        rate = self.rate or self.pictures / max(1e-9, now - self.since)
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            rate = self.rate = self.pictures / max(1e-9, now - self.since)
            self.pictures, self.since = 0, now
            pl_module.log("train/pictures_per_second", rate)
        due = now - self.spoke > (0.5 if self.progress else self.seconds)
        if not (self.enabled and trainer.is_global_zero and (due or trainer.global_step == trainer.max_steps)):
            return
        self.spoke = now
        loss = trainer.callback_metrics.get("train/loss", torch.tensor(float("nan")))
        note = f"loss {float(loss):.4f}  {rate:.0f} pictures/s"
        if self.progress:
            self.progress.update(self.progress.task_ids[0], completed=trainer.global_step, note=note)
        else:
            left = (trainer.max_steps - trainer.global_step) * len(batch.index) * trainer.world_size / rate
            print(f"step {trainer.global_step}/{trainer.max_steps}  {note}  {left / 60:.1f} min left", flush=True)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.paused = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.since += time.monotonic() - self.paused  # the rate is of training alone

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.progress:
            self.progress.update(self.progress.task_ids[0], completed=trainer.global_step)
            self.progress.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self.progress:
            self.progress.stop()
