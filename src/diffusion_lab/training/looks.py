"""A callback for any model: a function looks at it with its average weights."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger

from diffusion_lab.training.module import DiffusionModule

Look = Callable[[Any, Any, Path], Mapping[str, float]]
"""(model, data, where to draw a picture of them as PNG) -> values by name."""


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
            for logger in trainer.loggers:
                if isinstance(logger, WandbLogger):
                    logger.log_image("samples", [str(path)])
        for name, value in trainer.strategy.broadcast(dict(values)).items():
            pl_module.log(f"val/{name}", value)
