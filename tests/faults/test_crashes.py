"""Death in the middle of a write: whatever the moment, a reader finds a whole checkpoint."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from diffusion_lab.training.checkpoints import SafeCheckpointIO, newest_valid

# fsync and rename of the sum, fsync of the folder; the same of the checkpoint; nothing.
MOMENTS = range(7)


def die_at(moment: int, then: Callable[[], None]) -> None:
    """In a process of its own: does it, and is killed as the system is asked for the `moment`-th thing."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    asked = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            nonlocal asked
            if asked == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            asked += 1
            return function(*arguments)

        return call

    os.fsync, os.replace = counted(os.fsync), counted(os.replace)
    try:
        then()
    finally:
        os._exit(0)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_in_the_middle_of_a_checkpoint(tmp_path: Path, moment: int) -> None:
    SafeCheckpointIO().save_checkpoint({"step": 1, "weights": torch.full((5000,), 1.0)}, tmp_path / "step=1.ckpt")
    after = {"step": 2, "weights": torch.full((5000,), 2.0)}
    die_at(moment, lambda: SafeCheckpointIO().save_checkpoint(after, tmp_path / "step=2.ckpt"))
    path = newest_valid(tmp_path)
    assert path is not None
    state = SafeCheckpointIO().load_checkpoint(path)
    assert state["step"] == (2 if moment >= 5 else 1)
    assert torch.equal(state["weights"], torch.full((5000,), float(state["step"])))


def test_a_kill_after_half_the_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SafeCheckpointIO().save_checkpoint({"step": 1}, tmp_path / "step=1.ckpt")

    def half(state: object, file: Any) -> None:
        file.write(b"half a checkpoint")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(torch, "save", half)
    die_at(99, lambda: SafeCheckpointIO().save_checkpoint({"step": 2}, tmp_path / "step=2.ckpt"))
    assert newest_valid(tmp_path) == tmp_path / "step=1.ckpt"
