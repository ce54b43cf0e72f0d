"""Checkpoints that survive a kill at any moment: written aside, checked, and moved into place."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import CheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn

from diffusion_lab.files import replacing, sha256


def validates(trainer: Trainer) -> bool:
    """Whether the batch that ends now is followed by a validation."""
    return (trainer.fit_loop.total_batch_idx + 1) % trainer.val_check_batch == 0  # type: ignore[operator]


class Checkpoints(ModelCheckpoint):
    """Lightning's, at another moment: whatever has a checkpoint is done with, its validation and its export too.

    So a step that is validated has its checkpoint after that, and the last step has the one that ends the run. A run
    that is killed in a validation goes on from the checkpoint before, and validates anew.
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not validates(trainer):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step < trainer.max_steps:
            super().on_train_batch_end(trainer, pl_module, None, None, 0)
            super().on_validation_end(trainer, pl_module)


def sidecar(path: Path) -> Path:
    """Where a checkpoint's sha256 stands."""
    return path.with_name(path.name + ".sha256")


class SafeCheckpointIO(CheckpointIO):
    """Writes a checkpoint and its sha256 so that a reader finds either a whole one or none.

    A disk that is full costs a checkpoint, not the run: the failure is said and the older files stand.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        path = Path(path)
        try:
            with replacing(path) as fresh:
                with fresh.open("wb") as file:
                    torch.save(checkpoint, file)
                # The sum first: a checkpoint without one is taken for unfinished.
                with replacing(sidecar(path)) as sum_:
                    sum_.write_text(sha256(fresh))
        except (OSError, RuntimeError) as error:
            # torch fails again while it closes the file that it could not write, with an error of its own.
            cause = error if isinstance(error, OSError) else error.__context__
            if not isinstance(cause, OSError):
                raise
            rank_zero_warn(
                f"no checkpoint was written to '{path}' ({cause.strerror}); older ones stand, training goes on"
            )

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        checkpoint: dict[str, Any] = torch.load(path, map_location=map_location or "cpu", weights_only=True)
        return checkpoint

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)
        sidecar(Path(path)).unlink(missing_ok=True)


def valid(path: Path) -> bool:
    """Whether a checkpoint is whole: its bytes have the sum that stands beside it."""
    return path.is_file() and sidecar(path).is_file() and sha256(path).encode() == sidecar(path).read_bytes().strip()


def newest_valid(folder: Path) -> Path | None:
    """The newest whole checkpoint of a folder; None if it holds none at all.

    Raises:
        ValueError: if there are checkpoints and every one is damaged.
    """
    found = sorted(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for path in found:
        if valid(path):
            return path
        rank_zero_warn(f"'{path}' is damaged and is passed over")
    if found:
        raise ValueError(f"all {len(found)} checkpoints in '{folder}' are damaged: start a new run without resume=")
    return None


def run_state(run: Path) -> Mapping[str, Any]:
    """The newest whole checkpoint of a run, read on the CPU without unpickling objects."""
    path = newest_valid(run / "checkpoints")
    if path is None:
        raise FileNotFoundError(f"no checkpoint in '{run / 'checkpoints'}'")
    checkpoint: Mapping[str, Any] = SafeCheckpointIO().load_checkpoint(path)
    return checkpoint
