"""What starting costs, in seconds of the processor beside those of a process that does a known thing.

They are counted by the system, so that a busy machine is no slower in them, and each is held against another of the
same run, so that a slow one is not either.
"""

import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from diffusion_lab.inpainting import shipped

ROOT = Path(__file__).parents[1]


def costs(run: Callable[[], None]) -> float:
    """Seconds of the processor that the processes take which are begun and ended meanwhile."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def python(*arguments: str) -> Callable[[], None]:
    def run() -> None:
        subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True)

    return run


def served() -> None:
    """The service, until it is ready."""
    command = [sys.executable, "-m", "diffusion_lab.serving", "--inpainter", str(shipped()), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Serving")
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0


@pytest.mark.slow
def test_help_costs_less_than_half_of_importing_torch() -> None:
    torch = min(costs(python("-c", "import torch")) for _ in range(2))
    python("train.py", "--help")()  # the first one may compile, as the first of torch does
    assert costs(python("train.py", "--help")) < torch / 2


@pytest.mark.slow
def test_the_service_is_ready_for_a_few_times_what_importing_torch_costs() -> None:
    """Two networks of 64 and 256 px are read, hashed and asked for one and for two pictures before the first line."""
    torch = min(costs(python("-c", "import torch")) for _ in range(2))
    assert costs(served) < 6 * torch
