"""What happens beside the steps: the exported inpainter, a clean stop, levels that learn, one configuration."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from diffusion_lab.data.examples import Batch
from diffusion_lab.diffusion.level_samplers import LossSecondMoment
from diffusion_lab.diffusion.losses import Levels
from diffusion_lab.training.checkpoints import validates
from diffusion_lab.training.module import DiffusionModule


class Export(Callback):
    """Keeps the run's `inpainter/` folder: the average weights at each validation, or the best by a metric.

    A disk that is full in the middle of a run costs an export, not the run; at its end it is an error.

    Args:
        folder: of the inpainter.
        monitor: name of a validation metric; None keeps the last.
        lowest: whether the lowest value is the best.
        average: which of the averages, if the run has several.
    """

    def __init__(self, folder: Path | str, monitor: str | None = None, lowest: bool = True, average: int = 0) -> None:
        self.folder = Path(folder)
        self.monitor = monitor
        self.lowest = lowest
        self.average = average
        self.best: float | None = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        if self.monitor is not None:
            if self.monitor not in trainer.callback_metrics:
                known = ", ".join(sorted(trainer.callback_metrics))
                raise ValueError(f"callbacks.export.monitor names '{self.monitor}', but the metrics are: {known}")
            value = float(trainer.callback_metrics[self.monitor])
            if self.best is not None and (value >= self.best if self.lowest else value <= self.best):
                return
            self.best = value
        try:
            self.export(trainer, pl_module)
        except OSError as error:
            rank_zero_warn(f"{error}; training goes on")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.monitor is None or self.best is None:
            self.export(trainer, pl_module)

    def export(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, DiffusionModule)
        if trainer.is_global_zero:
            module.inpainter.recipe["training"] = {
                **module.inpainter.recipe.get("training", {}),
                "step": trainer.global_step,
                "average": str(module.ema.decays[self.average]),
            }
            with module.ema.applied(self.average):
                module.inpainter.save(self.folder)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]


SOON = b"\nstopping after a step or a few, with a checkpoint; Ctrl-C once more stops at once, without one\n"


class StopCleanly(Callback):
    """Turns SIGTERM and Ctrl-C into a stop between two steps, on all ranks together, with a checkpoint.

    The handler only raises a flag; the ranks agree on it every few steps, so that a signal to one of them ends all, and
    none waits in a collective that the others have left. The exit code is 128 and the signal's number. A second Ctrl-C
    does not wait.

    Args:
        folder: of the checkpoints.
        every_n_steps: between agreements.
    """

    def __init__(self, folder: Path | str, every_n_steps: int = 10) -> None:
        self.folder = Path(folder)
        self.every_n_steps = every_n_steps
        self.asked: int | None = None  # by which signal
        self.speaks = False
        self.previous: dict[int, Any] = {}

    def ask(self, number: int, frame: FrameType | None) -> None:
        if number == self.asked == signal.SIGINT:
            raise KeyboardInterrupt
        if number == signal.SIGINT and self.speaks:
            os.write(2, SOON)  # print may be what was interrupted
        self.asked = number

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.speaks = trainer.is_global_zero
        self.previous = {number: signal.signal(number, self.ask) for number in (signal.SIGTERM, signal.SIGINT)}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if not validates(trainer):
            self.stop_if_asked(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step < trainer.max_steps:  # else it ends by itself
            self.stop_if_asked(trainer)

    def stop_if_asked(self, trainer: Trainer) -> None:
        """All ranks call this after the same steps, when nothing of the step is left to be done."""
        if trainer.global_step % self.every_n_steps:
            return
        if trainer.strategy.reduce_boolean_decision(self.asked is not None, all=False):
            number = signal.Signals(self.asked or signal.SIGTERM)
            trainer.save_checkpoint(self.folder / f"step={trainer.global_step}.ckpt")
            if trainer.is_global_zero:
                print(
                    f"stopped by {number.name} at step {trainer.global_step}; go on with resume={self.folder.parent}",
                    flush=True,
                )
            raise SystemExit(128 + number)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.restore()

    def restore(self) -> None:
        """Gives the signals back to whoever had them."""
        for number, handler in self.previous.items():
            signal.signal(number, handler or signal.SIG_DFL)
        self.previous = {}


class Resample(Callback):
    """Tells the loss-aware level sampler what each level cost, on every rank the same (iDDPM section 3.3)."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, DiffusionModule)
        sampler = pl_module.levels
        if not isinstance(sampler, LossSecondMoment):
            raise ValueError(
                "callbacks=resample is for objective=hybrid_resampled: this objective's levels do not learn"
            )
        mine: Levels = outputs["levels"]
        told = torch.stack([mine.level, mine.next_level, mine.weight, outputs["losses"].cpu().double()])
        shares = [told]
        if trainer.world_size > 1:
            shares = [torch.empty_like(told) for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(shares, told)
        level, next_level, weight, losses = torch.cat(shares, dim=1)
        sampler.observe(
            pl_module.inpainter.denoiser.schedule,
            replace(mine, level=level, next_level=next_level, weight=weight),
            losses,
        )

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["levels"] = pl_module.levels.state_dict()  # type: ignore[union-attr]

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        pl_module.levels.load_state_dict(checkpoint["levels"])  # type: ignore[union-attr]


class SameConfig(Callback):
    """Refuses to train when the ranks were started with different configurations.

    Args:
        digest: of the resolved config, an integer below 2^63.
    """

    def __init__(self, digest: int) -> None:
        self.digest = digest

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        same = trainer.strategy.broadcast(self.digest) == self.digest
        if not trainer.strategy.reduce_boolean_decision(same):
            raise ValueError(
                "the ranks were started with different configurations, so nothing was trained: "
                "give every rank the same command"
            )
