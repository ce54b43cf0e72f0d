"""`metrics.jsonl` after a kill: as if nobody had killed."""

import json
import resource
from pathlib import Path

import pytest

from diffusion_lab.training.loggers import JSONLinesLogger, read_metrics


def logged(folder: Path, steps: int) -> JSONLinesLogger:
    logger = JSONLinesLogger(folder)
    for step in range(steps):
        logger.log_metrics({"train/loss": float(step), "epoch": 0}, step)
    logger.log_metrics({"val/loss": 0.5}, steps - 1)
    return logger


def test_steps_that_come_again_are_taken_out(tmp_path: Path) -> None:
    logged(tmp_path, 7).rewind(4, {"train/loss": 3.0})
    assert read_metrics(tmp_path) == [{"step": step, "train/loss": float(step)} for step in range(4)]


def test_what_a_kill_left_half_written_is_taken_out(tmp_path: Path) -> None:
    logger = logged(tmp_path, 3)
    whole = logger.path.read_text()
    for end in range(len(whole)):
        logger.path.write_text(whole[:end])
        logger.rewind(3, {})
        logger.log_metrics({"train/loss": 3.0}, 3)
        *before, last = logger.path.read_text().splitlines()
        assert before == whole.splitlines()[: len(before)]
        assert len(before) == whole[:end].count("\n")
        assert json.loads(last) == {"step": 3, "train/loss": 3.0}


@pytest.mark.parametrize("there", [True, False])
def test_the_line_of_the_checkpoint_s_own_step_is_there_once(tmp_path: Path, there: bool) -> None:
    """It is written after the checkpoint is: a kill may come between them."""
    logger = logged(tmp_path, 4 if there else 3)
    logger.rewind(4, {"train/loss": 3.0})
    losses = [(line["step"], line["train/loss"]) for line in read_metrics(tmp_path) if "train/loss" in line]
    assert losses == [(step, float(step)) for step in range(4)]
    assert [line["step"] for line in read_metrics(tmp_path) if "val/loss" in line] == [3 if there else 2]


def test_a_run_that_begins_has_nothing_to_go_back_to(tmp_path: Path) -> None:
    JSONLinesLogger(tmp_path / "new").rewind(0, {})
    assert not (tmp_path / "new").exists()


def test_lines_wait_for_room_and_none_is_written_by_halves(tmp_path: Path) -> None:
    logger = logged(tmp_path, 3)
    before = logger.path.read_text()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limits[1]))  # as a disk with room for ten bytes
    try:
        for step in (3, 4):
            logger.log_metrics({"train/loss": float(step)}, step)
        assert logger.path.read_text() == before
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    logger.log_metrics({"train/loss": 5.0}, 5)
    assert [line["step"] for line in read_metrics(tmp_path) if "train/loss" in line] == list(range(6))
