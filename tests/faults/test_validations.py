"""Death around a validation: the run that goes on ends as one that nobody disturbed."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer

from diffusion_lab.training.checkpoints import newest_valid
from diffusion_lab.training.loggers import read_metrics

RunScript = Callable[..., tuple[int, str, str]]

HOOKS = ("on_train_batch_end", "on_validation_start", "on_validation_epoch_end", "on_validation_end", "on_train_end")
"""In the order in which they come, all before the checkpoint of the step."""


class Blow(Callback):
    """Strikes a run once, in one of its hooks.

    Args:
        hook: which.
        step: at which.
        file: is made when it strikes: there, it never does again.
        number: the signal, or 0 for a death that asks nobody.
    """

    def __init__(self, hook: str, step: int, file: str, number: int) -> None:
        self.step, self.file, self.number = step, Path(file), number
        setattr(self, hook, self.strike)

    def strike(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step and not self.file.exists():
            self.file.touch()
            if not self.number:
                raise SystemExit(137)
            signal.raise_signal(self.number)


def ended(folder: Path, tiny: list[str], run_script: RunScript, *more: str) -> tuple[Path, int, str]:
    """A run of 12 steps, three validations and a checkpoint after every 2nd step: folder, exit code, output."""
    shape = [
        "trainer.max_steps=12",
        "trainer.validations=3",
        "data.num_workers=0",
        "callbacks.checkpoint.every_n_train_steps=2",
    ]
    run = folder / "x" / "run"
    lines = ["trainer.log_every_n_steps=1", "callbacks.stop.every_n_steps=1", f"hydra.run.dir={run}"]
    code, out, err = run_script("train.py", *tiny, *shape, *lines, *more)
    return run, code, out + err


def told(run: Path) -> list[dict[str, float]]:
    """Its lines of metrics without what a clock says."""
    return [{key: line[key] for key in line if key != "train/pictures_per_second"} for line in read_metrics(run)]


@pytest.fixture
def undisturbed(tmp_path: Path, tiny: list[str], run_script: RunScript) -> Path:
    run, code, out = ended(tmp_path / "undisturbed", tiny, run_script)
    assert code == 0, out
    return run


TELLING = {(0, "on_validation_end", 8), (0, "on_validation_end", 12), (15, "on_validation_start", 8)}
MOMENTS = [
    pytest.param(number, hook, step, marks=() if (number, hook, step) in TELLING else pytest.mark.slow)
    for number in (0, int(signal.SIGTERM))
    for hook in HOOKS
    for step in ((12,) if hook == "on_train_end" else (8, 12))
]


@pytest.mark.parametrize(("number", "hook", "step"), MOMENTS)
def test_whatever_the_moment(
    number: int, hook: str, step: int, undisturbed: Path, tmp_path: Path, tiny: list[str], run_script: RunScript
) -> None:
    blow = f"{{_target_: test_validations.Blow, hook: {hook}, step: {step}, file: {tmp_path / 'fell'}, "
    run, code, out = ended(tmp_path / "struck", tiny, run_script, f"+callbacks.blow={blow}number: {number}}}")
    dies = not number or step < 12
    assert code == (128 + number if number and dies else 137 if dies else 0), out
    if dies:
        checkpoint = newest_valid(run / "checkpoints")
        assert checkpoint is not None
        late = hook == "on_validation_end"  # the ranks have agreed on going on by then
        assert checkpoint.stem == f"step={step + late if number else step - 2}"
        code, _, err = run_script("train.py", f"resume={run}")
        assert code == 0, err
    assert told(run) == told(undisturbed)
    weights = Path("inpainter", "model.safetensors")
    assert (run / weights).read_bytes() == (undisturbed / weights).read_bytes()
