"""What happens beside the training steps: pictures, the exported inpainter, progress, and a clean stop."""

import signal
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import WandbLogger
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from diffusion_lab.data.datamodule import FaceData
from diffusion_lab.data.examples import Batch, EvaluationExamples
from diffusion_lab.diffusion.denoiser import Prediction
from diffusion_lab.diffusion.level_samplers import LossSecondMoment
from diffusion_lab.diffusion.losses import Levels
from diffusion_lab.diffusion.sampling import Rows
from diffusion_lab.metrics.inpainting import Measure
from diffusion_lab.pictures import masked, save_png, sheet, to_uint8
from diffusion_lab.training.module import DiffusionModule


class Samples(Callback):
    """Inpaints the first validation pictures with the average weights, measures the results, and draws them on a sheet.

    Each picture has its own mask and seed, so that sheets and values can be compared over the steps and between runs.

    Args:
        folder: of the PNGs.
        count: pictures on a sheet.
        strip: how many moments of the denoising are shown.
        every_n_steps: between sheets; None draws one at each validation.
        measures: of (result, truth, mask), each logged as ``val/<name>`` at each validation.
        measured: pictures that are measured.
    """

    def __init__(
        self,
        folder: Path | str,
        count: int = 8,
        strip: int = 4,
        every_n_steps: int | None = None,
        measures: Mapping[str, Measure] | None = None,
        measured: int = 32,
    ) -> None:
        self.folder = Path(folder)
        self.count = count
        self.strip = strip
        self.every_n_steps = every_n_steps
        self.measures = measures or {}
        self.measured = measured

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        values: dict[str, float] = {}
        if trainer.is_global_zero:  # nothing that the first rank does here may wait for the others
            values = self.look(trainer, pl_module, self.measured if self.measures else self.count)
        for name, value in trainer.strategy.broadcast(values).items():
            pl_module.log(f"val/{name}", value, sync_dist=True)  # already the same on every rank

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0 and trainer.is_global_zero:
            self.look(trainer, pl_module, self.count)

    @torch.no_grad()
    def look(self, trainer: Trainer, module: LightningModule, count: int) -> dict[str, float]:
        """Inpaints `count` pictures and draws the sheet; the mean of each measure."""
        assert isinstance(module, DiffusionModule)
        data: FaceData = trainer.datamodule  # type: ignore[attr-defined]
        pictures = data.pictures("valid")
        batch = EvaluationExamples(pictures, data.mask).__getitems__(torch.arange(min(count, len(pictures))))
        image, mask = batch.image.to(module.device), batch.mask.to(module.device)
        calls = module.inpainter.network_calls()
        shown = {round(calls * (i + 1) / (self.strip + 1)) for i in range(self.strip)}
        moments: list[Tensor] = []
        seen = 0

        def remember(rows: Rows, prediction: Prediction) -> None:
            nonlocal seen
            seen += 1
            if seen in shown:
                moments.append(torch.where(mask, rows.x, image))

        training = module.training
        module.eval()
        with module.ema.applied(), trainer.precision_plugin.forward_context():
            result = module.inpainter(image, mask, seeds=batch.index, on_step=remember)
        module.train(training)
        columns = [
            "hole",
            *[f"{100 * (i + 1) // (len(moments) + 1)} %" for i in range(len(moments))],
            "result",
            "truth",
        ]
        drawn = sheet(list(zip(masked(image, mask), *moments, result, image, strict=True))[: self.count], columns)
        save_png(drawn, self.folder / f"{trainer.global_step:07d}.png")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("samples", [drawn])
        pair = to_uint8(result), to_uint8(image)
        return {name: float(measure(*pair, mask).mean()) for name, measure in self.measures.items()}


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


class Bar(ProgressBar):
    """Step, loss, pictures per second and time left; on a terminal as a bar, elsewhere as a line now and then.

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
        self.pictures = 0

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
        rate = self.pictures / max(1e-9, now - self.since)
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
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
