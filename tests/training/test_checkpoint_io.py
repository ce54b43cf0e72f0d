import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from diffusion_lab.training.checkpoints import SafeCheckpointIO, newest_valid, sidecar, valid


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two checkpoints, the second newer."""
    for step in (1, 2):
        path = tmp_path / f"step={step}.ckpt"
        SafeCheckpointIO().save_checkpoint({"step": step, "weights": torch.full((1000,), float(step))}, path)
        os.utime(path, ns=(step * 10**9, step * 10**9))
    return tmp_path


def test_newest_is_taken_and_read_back(folder: Path) -> None:
    path = newest_valid(folder)
    assert path is not None
    state = SafeCheckpointIO().load_checkpoint(path)
    assert state["step"] == 2
    assert torch.equal(state["weights"], torch.full((1000,), 2.0))


@pytest.mark.parametrize("fault", ["truncated", "flipped", "no sum", "empty", "sum flipped"])
def test_a_damaged_file_is_passed_over(folder: Path, fault: str) -> None:
    path = folder / "step=2.ckpt"
    content = bytearray(path.read_bytes())
    if fault == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif fault == "flipped":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif fault == "sum flipped":
        sum_ = bytearray(sidecar(path).read_bytes())
        sum_[9] ^= 0x80  # no text any more
        sidecar(path).write_bytes(sum_)
    elif fault == "empty":
        path.write_bytes(b"")
    else:
        sidecar(path).unlink()
    os.utime(path, ns=(5 * 10**9, 5 * 10**9))
    with pytest.warns(UserWarning, match="damaged"):
        assert newest_valid(folder) == folder / "step=1.ckpt"


def test_only_damaged_files_are_an_error(folder: Path) -> None:
    for path in folder.glob("*.ckpt"):
        path.write_bytes(b"not a checkpoint")
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(ValueError, match="all 2 checkpoints"):
        newest_valid(folder)


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert newest_valid(tmp_path) is None


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow beyond 1 KiB; for as short as can be, since pytest's own output may be a file."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_costs_the_new_checkpoint_only(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.warns(UserWarning, match="older ones stand"), full_disk():
        SafeCheckpointIO().save_checkpoint({"weights": torch.zeros(10_000)}, folder / "step=3.ckpt")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    path = tmp_path / "evil.ckpt"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save({"x": Evil()}, path)
    with pytest.raises(Exception, match="Weights only load failed"):
        SafeCheckpointIO().load_checkpoint(path)
    assert not (tmp_path / "ran").exists()


def test_removal_takes_the_sum_along(folder: Path) -> None:
    SafeCheckpointIO().remove_checkpoint(folder / "step=1.ckpt")
    assert sorted(path.name for path in folder.iterdir()) == ["step=2.ckpt", "step=2.ckpt.sha256"]
    assert valid(folder / "step=2.ckpt")
