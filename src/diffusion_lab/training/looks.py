"""Looking at the model with its average weights: sheets of inpainted faces, or whatever a function draws."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image
from torch import Tensor

from diffusion_lab.data.datamodule import FaceData
from diffusion_lab.data.examples import Batch, EvaluationExamples, floats
from diffusion_lab.diffusion.denoiser import Prediction
from diffusion_lab.diffusion.sampling import Rows
from diffusion_lab.metrics.inpainting import Measure
from diffusion_lab.pictures import save_png, sheet, to_uint8
from diffusion_lab.training.mlflow_logger import MLflowLogger
from diffusion_lab.training.module import Completing, DiffusionModule

Look = Callable[[Any, Any, Path], Mapping[str, float]]
"""(model, data, where to draw a picture of them as PNG) -> values by name."""


def show(trainer: Trainer, picture: Image.Image | str) -> None:
    """Hands a picture to the loggers that keep pictures."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image("samples", [picture])
        elif isinstance(logger, MLflowLogger):
            with Image.open(picture) if isinstance(picture, str) else nullcontext(picture) as drawn:
                logger.log_image("samples", drawn.convert("RGB"), trainer.global_step)


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

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, DiffusionModule)
        cast(Completing, pl_module.inpainter).network_calls()  # a sampler that cannot be is said before training

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
        examples = EvaluationExamples(pictures, data.mask, degrade=data.degrade)
        batch = floats(examples.__getitems__(torch.arange(min(count, len(pictures)))))
        image, given, mask = (x.to(module.device) for x in (batch.image, batch.given, batch.mask))
        inpainter = cast(Completing, module.inpainter)
        calls = inpainter.network_calls()
        shown = {round(calls * (i + 1) / (self.strip + 1)) for i in range(self.strip)}
        moments: list[Tensor] = []
        seen = 0

        def remember(rows: Rows, prediction: Prediction) -> None:
            nonlocal seen
            seen += 1
            if seen in shown:
                moments.append(torch.where(mask, rows.x, given))

        training = module.training
        module.eval()
        with module.ema.applied(), trainer.precision_plugin.forward_context():
            result = inpainter(given, mask, seeds=batch.index, on_step=remember)
        module.train(training)
        columns = [
            "given",
            *[f"{100 * (i + 1) // (len(moments) + 1)} %" for i in range(len(moments))],
            "result",
            "truth",
        ]
        shown_of_it = inpainter.task.plain(given, mask)
        drawn = sheet(list(zip(shown_of_it, *moments, result, image, strict=True))[: self.count], columns)
        try:
            save_png(drawn, self.folder / f"{trainer.global_step:07d}.png")
        except OSError as error:  # a full disk costs the sheet, not the run
            rank_zero_warn(f"no sheet was drawn ({error}); training goes on")
        show(trainer, drawn)
        measured = to_uint8(result).cpu(), to_uint8(image).cpu(), mask.cpu()  # LPIPS has its weights there
        return {name: float(measure(*measured).mean()) for name, measure in self.measures.items()}


class Looks(Callback):
    """Looks at the model at each validation: values are logged as ``val/<name>``, the picture is kept.

    Args:
        folder: of the PNGs.
        look: sees the model with its average weights, in evaluation mode, and the LightningDataModule.
    """

    def __init__(self, folder: Path | str, look: Look) -> None:
        self.folder = Path(folder)
        self.look = look

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, DiffusionModule)
        values: Mapping[str, float] = {}
        if trainer.is_global_zero:  # nothing that the first rank does here may wait for the others
            path = self.folder / f"{trainer.global_step:07d}.png"
            with pl_module.ema.applied(), trainer.precision_plugin.forward_context():
                values = self.look(pl_module.inpainter, trainer.datamodule, path)  # type: ignore[attr-defined]
            show(trainer, str(path))
        for name, value in trainer.strategy.broadcast(dict(values)).items():
            pl_module.log(f"val/{name}", value)
