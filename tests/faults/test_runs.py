"""What befalls a run from outside: Ctrl-C, a rank that dies, a rank whose batch is not finite, a full disk."""

import os
import signal
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from safetensors.torch import load_file
from wandb.proto import wandb_internal_pb2

from diffusion_lab import recipe
from diffusion_lab.training.loggers import read_metrics
from patience import PATIENCE
from processes import start, wait_for

ROOT = Path(__file__).parents[2]
RunScript = Callable[..., tuple[int, str, str]]


@pytest.fixture
def tiny(tiny: list[str], tmp_path: Path) -> list[str]:
    """With every step logged, a checkpoint after every 4, and a folder that is known."""
    watched = ["trainer.log_every_n_steps=1", "callbacks.checkpoint.every_n_train_steps=4"]
    return [*tiny, *watched, "callbacks.stop.every_n_steps=1", f"hydra.run.dir={tmp_path / 'logs/x/run'}"]


class Interrupt(Callback):
    """Presses Ctrl-C at a step."""

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step == 6:  # the next agreement is a step later
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_leaves_a_checkpoint(tiny: list[str], tmp_path: Path, run_script: RunScript) -> None:
    press = "+callbacks.interrupt._target_=test_runs.Interrupt"
    code, out, _ = run_script("train.py", *tiny, "trainer.max_steps=12", press)
    run = tmp_path / "logs" / "x" / "run"
    assert code == 128 + signal.SIGINT
    assert f"stopped by SIGINT at step 7; go on with resume={run}" in out
    assert (run / "checkpoints" / "step=7.ckpt").is_file()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    code, _, err = run_script("train.py", f"resume={run}")
    assert code == 0, err
    assert [line["step"] for line in read_metrics(run) if "train/loss" in line] == list(range(12))  # each once


@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_second_training_leaves_the_folder_of_the_first_alone(
    devices: int, tiny: list[str], tmp_path: Path, run_script: RunScript
) -> None:
    run = tmp_path / "logs" / "x" / "run"
    held = tmp_path / "held"  # it would take the cores from what is tried beside it
    held.touch()
    hold = ["+callbacks.hold._target_=holding.Hold", "+callbacks.hold.step=6", f"+callbacks.hold.file={held}"]
    long = [*tiny, "trainer.max_steps=100000", f"trainer.devices={devices}", *hold]
    process = start(*long, modules=Path(__file__).parents[1])
    try:
        wait_for(run / "checkpoints" / "step=4.ckpt", process)
        before = {name: (run / name).read_bytes() for name in ("config.yaml", ".hydra/overrides.yaml")}
        for arguments in (["resume=auto", f"paths.logs={tmp_path / 'logs'}", "name=x"], [*tiny, "seed=7"]):
            code, _, err = run_script("train.py", *arguments)
            assert code == 1
            assert f"error: process {process.pid} on " in err
            assert f"is at work in '{run}'" in err
            assert len(err.splitlines()) == 1
        assert before == {name: (run / name).read_bytes() for name in before}
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    held.unlink()
    steps = [line["step"] for line in read_metrics(run) if "train/loss" in line]
    assert steps == list(range(len(steps)))
    last = max(int(path.stem.split("=")[1]) for path in run.glob("checkpoints/*.ckpt"))
    code, out, err = run_script("train.py", f"resume={run}", f"trainer.max_steps={last + 1}", "trainer.devices=1")
    assert code == 0, err  # killed, the first one keeps nobody out
    assert "resumed from" in out


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_the_run(tiny: list[str], tmp_path: Path, run_script: RunScript) -> None:
    run = tmp_path / "logs" / "x" / "run"
    process = start(*tiny, "trainer.max_steps=100000", "trainer.devices=2")
    wait_for(run / "checkpoints" / "step=*.ckpt", process)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(children[0]), signal.SIGKILL)
    out = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode != 0, out
    last = max(int(path.stem.split("=")[1]) for path in run.glob("checkpoints/*.ckpt"))
    code, out, err = run_script("train.py", f"resume={run}", "trainer.devices=1", f"trainer.max_steps={last + 2}")
    assert code == 0, err
    assert f"resumed from step={last}.ckpt" in out


@pytest.mark.slow
def test_one_bad_batch_on_one_rank_is_skipped_by_both(tiny: list[str], tmp_path: Path) -> None:
    poison = ["+callbacks.poison._target_=poison.Poison", "+callbacks.poison.step=3"]
    process = start(*tiny, "trainer.max_steps=6", "trainer.devices=2", *poison, modules=Path(__file__).parent)
    out = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 0, out
    assert "rank 0 skipped 1" in out
    assert "rank 1 skipped 1" in out
    run = tmp_path / "logs" / "x" / "run"
    state = load_file(run / "inpainter" / "model.safetensors")
    assert all(bool(torch.isfinite(tensor).all()) for tensor in state.values())


def test_a_full_disk_in_the_middle_costs_no_run(
    tiny: list[str], tmp_path: Path, run_script: RunScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The export of the first validation finds no room; the last one does."""
    save, calls = recipe.save, []

    def full_at_first(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == 1:
            raise OSError(28, "No space left on device", "inpainter")
        save(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(recipe, "save", full_at_first)
    with pytest.warns(UserWarning, match="No space left on device.*training goes on"):
        code, _, err = run_script("train.py", *tiny, "trainer.validations=2", "trainer.max_steps=4")
    run = tmp_path / "logs" / "x" / "run"
    assert code == 0, err
    assert len(calls) > 1
    assert (run / "inpainter" / "model.safetensors").is_file()
    assert [line["step"] for line in read_metrics(run) if "train/loss" in line] == [0, 1, 2, 3]


def records(path: Path) -> Iterator[Any]:
    """What W&B wrote down of an offline run: LevelDB's log format behind a header of 7 bytes."""
    data, position, record = path.read_bytes(), 7, b""
    while position + 7 <= len(data):
        left = 32768 - position % 32768  # of this block
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or its last part
            yield wandb_internal_pb2.Record.FromString(record)
            record = b""


@pytest.mark.slow
def test_a_sweep_without_an_account(tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    overrides = [o for o in tiny if not o.startswith(("hydra.run.dir", "logger="))]
    process = start("-m", *overrides, "name=x", "trainer.max_steps=4", "seed=5,6")
    out = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 0, out
    assert "wandb" not in out.lower()
    names = set()
    for job, seed in (("0", "5"), ("1", "6")):
        (run,) = tmp_path.glob(f"logs/x/*/{job}")
        assert [line["step"] for line in read_metrics(run) if "train/loss" in line] == [0, 1, 2, 3]
        (file,) = run.glob("wandb/offline-run-*/*.wandb")
        found = list(records(file))
        (described,) = (record.run for record in found if record.HasField("run"))
        assert described.run_group == "x"
        names.add(described.display_name)
        config = {item.key: item.value_json for record in found for item in record.config.update}
        assert config["seed"] == seed
        assert {"model", "data", "sampler", "schedule"} <= config.keys()
        logged = {item.key or item.nested_key[0] for record in found for item in record.history.item}
        assert {"train/loss", "val/loss", "samples"} <= logged
        assert list(file.parent.glob("files/media/images/samples_*.png"))
    assert len(names) == 2


@pytest.mark.slow
def test_a_run_with_a_key_goes_on_where_wandb_does_not_answer(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # where nobody listens
    process = start(*[o for o in tiny if not o.startswith("logger=")], "trainer.max_steps=4")
    out = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 0, out
    assert "W&B does not answer, so this run is logged offline" in out
    run = tmp_path / "logs" / "x" / "run"
    assert [line["step"] for line in read_metrics(run) if "train/loss" in line] == [0, 1, 2, 3]
    assert list(run.glob("wandb/offline-run-*/*.wandb"))
