"""Training in a process of its own: what can only be seen from outside."""

import os
import subprocess
import sys
import time
from pathlib import Path

from patience import PATIENCE

TRAIN = Path(__file__).parents[1] / "train.py"


def start(*overrides: str, threads: int = 1, modules: Path | None = None) -> subprocess.Popen[str]:
    """Trains in a process that dies with all of its ranks when its group is killed.

    Args:
        overrides: of train.py.
        threads: sums over another number of them round differently.
        modules: folder that it may import from.
    """
    environment = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "WORLD_SIZE", "NODE_RANK")}
    return subprocess.Popen(
        [sys.executable, str(TRAIN), *overrides],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**environment, "OMP_NUM_THREADS": str(threads), **({"PYTHONPATH": str(modules)} if modules else {})},
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Returns when a file of that name, which may be a pattern, is there, and fails if the process ends before."""
    until = time.monotonic() + PATIENCE
    while not list(path.parent.glob(path.name)):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until, f"{path} did not come"
        time.sleep(0.02)
