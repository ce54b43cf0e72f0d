"""A sweep whose jobs are quick: what a call of it does, in this process or in one of its own."""

import sys
from collections.abc import Sequence
from pathlib import Path

from diffusion_lab import sweeps

JOB = """
import os, sys, time
folder, name, *how = sys.argv[1:]
with open(os.path.join(folder, "said"), "a") as file:
    file.write(f"{name} {os.environ.get('CUDA_VISIBLE_DEVICES', '')}\\n")
while "waits" in how and not os.path.exists(os.path.join(folder, "go")):
    time.sleep(0.01)
sys.exit(3 if "fails" in how and not os.path.exists(os.path.join(folder, "mended")) else 0)
"""


def call(folder: str, jobs: Sequence[str], cards: Sequence[str] = ()) -> int:
    """What a call of a sweep does with jobs such as ``a``, ``b.fails`` or ``c.waits``; its exit code."""
    sweep = Path(folder)
    numbers = sweeps.enlist(sweep, [[f"job={job}"] for job in jobs], ["job"], ["job=..."])
    asked = [sweeps.Job(number, [f"job={job}"], sweep / str(number)) for number, job in zip(numbers, jobs, strict=True)]

    def command(job: sweeps.Job) -> list[str]:
        return [sys.executable, "-I", "-S", "-c", JOB, folder, *job.overrides[0].removeprefix("job=").split(".")]

    stopped = sweeps.run(asked, command, sweeps.places(None, cards, 1, 1))
    return stopped or max(abs(job.code or 0) for job in asked)


if __name__ == "__main__":
    sys.exit(call(sys.argv[1], sys.argv[2:]))
