"""Averages kept while training goes on, for lengths that are chosen afterwards."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from diffusion_lab.data.datamodule import Batch
from diffusion_lab.files import replacing
from diffusion_lab.training.ema import Power
from diffusion_lab.training.module import DiffusionModule


@dataclass(frozen=True)
class Snapshot:
    """A power-function average as it was at a step, in a file.

    Args:
        path: of the safetensors, named as the denoiser's parameters.
        profile: which steps it weighs.
        step: the last one.
    """

    path: Path
    profile: Power
    step: int

    def each(self, function: Callable[[str, Tensor], None]) -> None:
        """Hands every tensor to a function, one in memory at a time.

        Raises:
            ValueError: if the file is damaged.
        """
        try:
            with safe_open(self.path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118  # it is no mapping
                    function(name, file.get_tensor(name))
        except SafetensorError as error:
            raise damaged(self.path, error) from None


def damaged(path: Path, error: SafetensorError) -> ValueError:
    return ValueError(f"'{path}' is damaged ({error}): delete it, and do with the other snapshots")


def snapshots(folder: Path) -> list[Snapshot]:
    """The snapshots of a folder, oldest first.

    Raises:
        FileNotFoundError: if it has none.
        ValueError: if one is damaged.
    """
    found = []
    for path in folder.glob("*.safetensors"):
        try:
            with safe_open(path, framework="pt") as file:
                facts = file.metadata() or {}
        except SafetensorError as error:
            raise damaged(path, error) from None
        if {"sigma_rel", "step"} <= facts.keys():  # a stranger's file is passed over
            found.append(Snapshot(path, Power(float(facts["sigma_rel"])), int(facts["step"])))
    if not found:
        raise FileNotFoundError(f"no snapshots in '{folder}': train with ema=power callbacks=snapshots")
    return sorted(found, key=lambda snapshot: (snapshot.step, snapshot.profile.sigma_rel))


class Snapshots(Callback):
    """Writes the power-function averages of every N steps, and of the last, each file whole or not at all.

    A disk that is full costs a snapshot, not the run.

    Args:
        folder: of the snapshots.
        every_n_steps: between them; some 30 in a run bring every length in reach to a thousandth.
    """

    def __init__(self, folder: Path | str, every_n_steps: int) -> None:
        if every_n_steps < 1:
            raise ValueError(f"callbacks.snapshots.every_n_steps must be 1 or more, got {every_n_steps}")
        self.folder = Path(folder)
        self.every_n_steps = every_n_steps
        self.saved = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, DiffusionModule)
        for decay in pl_module.ema.decays:
            if not isinstance(decay, Power):
                raise ValueError(
                    f"callbacks=snapshots is for ema=power: no other length can be made of an average with {decay}"
                )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if trainer.global_step % self.every_n_steps == 0:
            self.keep(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.keep(trainer, pl_module)

    def keep(self, trainer: Trainer, module: LightningModule) -> None:
        """Writes the averages as they are now, unless that was done."""
        assert isinstance(module, DiffusionModule)
        step = module.ema.updates
        if not trainer.is_global_zero or step == self.saved:
            return
        for i, decay in enumerate(module.ema.decays):
            assert isinstance(decay, Power)
            path = self.folder / f"{step:07d}-{decay.sigma_rel:g}.safetensors"
            tensors = {name: tensor.cpu().contiguous() for name, tensor in module.ema.tensors(i).items()}
            try:
                with replacing(path) as fresh:
                    fresh.write_bytes(save(tensors, {"step": str(step), "sigma_rel": str(decay.sigma_rel)}))
            except OSError as error:
                rank_zero_warn(f"no snapshot was written to '{path}' ({error.strerror}); training goes on without it")
        self.saved = step
