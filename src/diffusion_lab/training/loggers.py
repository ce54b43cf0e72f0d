"""Where the numbers go: a file that is always there, and W&B without an account."""

import hashlib
import json
import netrc
import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from diffusion_lab.files import replacing
from diffusion_lab.sweeps import read_metrics as read_metrics

_PATIENCE = 30.0  # seconds that W&B has for its first answer


class JSONLinesLogger(Logger):
    """Appends every set of metrics to ``metrics.jsonl``, one JSON object a line, with its step.

    However often a run is killed and gone on with, the file ends with the lines of one that was not.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path | str) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.jsonl"
        self._owed = ""  # lines that found no room yet

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        values = {key: float(value) for key, value in metrics.items() if key != "epoch"}
        self._owed += json.dumps({"step": step, **values}) + "\n"
        try:  # a full disk must not end the run; checkpoints say it loudly
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab", buffering=0) as file:
                before = file.tell()
                if file.write(self._owed.encode()) == len(self._owed):
                    self._owed = ""
                else:
                    file.truncate(before)  # half a line would spoil the next one
        except OSError:
            return

    @rank_zero_only
    def rewind(self, step: int, last: Mapping[str, float]) -> None:
        """Leaves the lines of the first steps alone; what comes after, or was half written, will come again.

        Args:
            step: how many steps the run goes on after.
            last: of the last of them, in case that it has no line; may be empty.
        """
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True) if self.path.is_file() else []
        kept = [line for line in lines if _before(line, step)]
        ends = [json.loads(line) for line in kept[-2:]]  # a step's own line, and that of its validation
        if last and not any(line["step"] == step - 1 and last.keys() <= line.keys() for line in ends):
            kept.append(json.dumps({"step": step - 1, **last}) + "\n")
        if kept != lines:
            with replacing(self.path) as fresh:
                fresh.write_text("".join(kept), encoding="utf-8")

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The resolved config stands beside this file already."""


def _before(line: str, step: int) -> bool:
    """Whether a line is whole, and of one of the first steps."""
    try:
        return line.endswith("\n") and bool(json.loads(line)["step"] < step)
    except (ValueError, KeyError, TypeError):
        return False


class OneLineAStep(Callback):
    """A run that was killed and goes on has every line of ``metrics.jsonl`` once.

    A step's checkpoint is written before its line is: so it holds what that line is going to say.
    """

    def __init__(self) -> None:
        self.last: dict[str, float] = {}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        due = trainer.global_step % trainer.log_every_n_steps == 0  # type: ignore[attr-defined]
        said = {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("train/")}
        checkpoint["last_line"] = said if due else {}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.last = checkpoint.get("last_line", {})  # there is none in those of earlier versions

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, JSONLinesLogger):
                logger.rewind(trainer.global_step, self.last)


def logged_in() -> bool:
    """Whether this machine has a W&B key."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def wandb(folder: str, project: str, group: str, offline: bool | None = None) -> WandbLogger:
    """A W&B logger that needs no account, and goes on offline where W&B does not answer.

    Args:
        folder: of the run; a run resumed there goes on under the same W&B id.
        project: W&B's.
        group: gathers the runs of an experiment or sweep.
        offline: None is offline unless this machine is logged in; offline runs are uploaded by `wandb sync`.
    """
    import wandb as client

    offline = not logged_in() if offline is None else offline
    quiet = client.Settings(silent=True, console="off", init_timeout=_PATIENCE)
    client.termsetup(quiet, None)
    Path(folder).mkdir(parents=True, exist_ok=True)
    logger = WandbLogger(
        name="/".join(Path(folder).absolute().parts[-2:]),  # a job of a sweep is called 0 or 1
        save_dir=folder,
        id=hashlib.sha256(str(Path(folder).absolute()).encode()).hexdigest()[:12],
        project=project,
        group=group,
        offline=offline,
        resume=None if offline else "allow",
        log_model=False,
        settings=quiet,
    )
    if not offline:
        try:
            _ = logger.experiment  # reaches for W&B
        except client.errors.CommError as error:
            rank_zero_warn(f"W&B does not answer, so this run is logged offline: {error}")
            client.teardown()  # its process holds the id of the run
            return wandb(folder, project, group, offline=True)
    return logger
