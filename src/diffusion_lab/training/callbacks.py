"""What happens beside the steps: the exported inpainter, a clean stop, levels that learn, one configuration."""

import signal
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from diffusion_lab.data.examples import Batch
from diffusion_lab.diffusion.level_samplers import LossSecondMoment
from diffusion_lab.diffusion.losses import Levels
from diffusion_lab.training.module import DiffusionModule


class Export(Callback):
    """Keeps the run's `inpainter/` folder: the average weights at each validation, or the best by a metric.

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
        self.export(trainer, pl_module)

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


class StopCleanly(Callback):
    """Turns SIGTERM into a stop between two steps, on all ranks together, with a checkpoint and exit code 143.

    The handler only raises a flag; the ranks agree on it every few steps, so that a signal to one of them ends all, and
    none waits in a collective that the others have left.

    Args:
        folder: of the checkpoints.
        every_n_steps: between agreements.
    """

    def __init__(self, folder: Path | str, every_n_steps: int = 10) -> None:
        self.folder = Path(folder)
        self.every_n_steps = every_n_steps
        self.asked = False
        self.previous: Any = None

    def ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.previous = signal.signal(signal.SIGTERM, self.ask)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if trainer.global_step % self.every_n_steps:
            return
        if trainer.strategy.reduce_boolean_decision(self.asked, all=False):
            trainer.save_checkpoint(self.folder / f"step={trainer.global_step}.ckpt")
            if trainer.is_global_zero:
                print(
                    f"stopped by SIGTERM at step {trainer.global_step}; go on with resume={self.folder.parent}",
                    flush=True,
                )
            raise SystemExit(128 + signal.SIGTERM)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        signal.signal(signal.SIGTERM, self.previous)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        signal.signal(signal.SIGTERM, self.previous or signal.SIG_DFL)


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
