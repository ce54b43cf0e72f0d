"""The jobs of a sweep: which there are, which are done, and each of them once, side by side, however often it is cut.

A sweep is a folder. Its ``sweep.json`` says how it was asked for and numbers its jobs, ``job.json`` in a job's folder
how that ended. Whoever works on a job holds the lock of its folder, so that several may work on one sweep: a call that
goes on with it, a job that was left over when one was killed, the tasks of an array on a cluster.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from diffusion_lab.files import held, replacing

SWEEP, JOB = "sweep.json", "job.json"

STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
"""Exit codes of jobs that somebody stopped: they have not ended, and the rest is not wanted either."""

RANKED = ("LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "RANK", "WORLD_SIZE", "SLURM_", "HYDRA_FULL_ERROR")
"""What a job may not inherit: with it, it would take itself for a rank of ours."""

_LOOK = 0.05  # seconds between two looks at the jobs that run


class Job:
    """One run of a script.

    Args:
        number: in its sweep.
        overrides: that it is called with.
        folder: that it works in, and where what is known of it lies.
    """

    def __init__(self, number: int, overrides: Sequence[str], folder: Path) -> None:
        self.number = number
        self.overrides = list(overrides)
        self.folder = folder
        self.before = self.noted()

    def noted(self) -> dict[str, Any]:
        """How it ended last: `code`, `minutes`, `overrides`, `at`; nothing if it has not."""
        path = self.folder / JOB
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}

    @property
    def code(self) -> int | None:
        """Its exit code under these overrides; None: it has not ended under them."""
        noted = self.noted()
        return noted["code"] if noted and set(noted["overrides"]) == set(self.overrides) else None

    @property
    def open(self) -> bool:
        """Whether it is to be run: it has not ended well, nor has it ended at all since this call began."""
        return self.code != 0 and self.noted() == self.before

    def forget_unless(self, after: Sequence[Path], before: Sequence[Path]) -> None:
        """Takes back how it ended, unless it did after all of some files and before none of others were written."""
        path = self.folder / JOB
        if path.is_file():
            at = path.stat().st_mtime_ns
            old = [file for file in after if file.stat().st_mtime_ns > at]
            if old or any(not file.is_file() or file.stat().st_mtime_ns > at for file in before):
                path.unlink()
                self.before = {}

    def note(self, code: int, minutes: float) -> None:
        facts = {
            "overrides": self.overrides,
            "code": code,
            "minutes": round(minutes, 2),
            "at": f"{datetime.now().astimezone().isoformat()}",
        }
        with replacing(self.folder / JOB) as fresh:
            fresh.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def enlist(
    sweep: Path, listing: Sequence[Sequence[str]], swept: Collection[str], arguments: Sequence[str]
) -> list[int]:
    """The numbers of jobs in a sweep: those that it knows keep theirs, others get the next ones.

    A job is known by its values of what is swept, so that a sweep that goes on under a new setting goes on with its
    jobs.

    Args:
        sweep: folder, which is made if need be.
        listing: overrides of each job.
        swept: the settings that differ between jobs.
        arguments: that the sweep was asked for with, kept for those that go on with it.
    """
    with contextlib.ExitStack() as holds:
        while True:
            try:
                holds.enter_context(held(sweep / ".sweep.lock"))
            except ValueError:
                time.sleep(_LOOK)  # others enlist the same jobs just now
            else:
                return _enlist(sweep, listing, swept, arguments)


def _enlist(
    sweep: Path, listing: Sequence[Sequence[str]], swept: Collection[str], arguments: Sequence[str]
) -> list[int]:
    path = sweep / SWEEP
    known: dict[str, Any] = (
        json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"swept": [], "jobs": []}
    )
    keys = {*known["swept"], *swept}

    def identity(overrides: Sequence[str]) -> frozenset[str]:
        return frozenset(each for each in overrides if each.partition("=")[0] in keys)

    jobs = [list(overrides) for overrides in known["jobs"]]
    numbers = {identity(overrides): number for number, overrides in reversed([*enumerate(jobs)])}
    for overrides in listing:
        number = numbers.setdefault(identity(overrides), len(jobs))
        jobs[number : number + 1] = [list(overrides)]
    facts = {"arguments": list(arguments), "swept": sorted(keys), "jobs": jobs}
    with replacing(path) as fresh:
        fresh.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return [numbers[identity(overrides)] for overrides in listing]


def asked(sweep: Path) -> list[str]:
    """The arguments that a sweep was asked for with."""
    return [str(each) for each in json.loads((sweep / SWEEP).read_text(encoding="utf-8"))["arguments"]]


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The lines of a run's ``metrics.jsonl``; a half-written last line is left out."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    whole = [line for line in lines if line.endswith("}")]
    return [json.loads(line) for line in whole]


def graphics_cards(asked: Mapping[str, str]) -> list[str]:
    """The GPUs that may be used, by the names that CUDA has for them; none where NVIDIA's driver is not.

    Args:
        asked: the environment.
    """
    if "CUDA_VISIBLE_DEVICES" in asked:
        return [name for name in asked["CUDA_VISIBLE_DEVICES"].split(",") if name]
    if not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(
        ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, check=False
    )
    return listed.stdout.split() if listed.returncode == 0 else []


def places(jobs: int | None, cards: Sequence[str], each: int, cores: int) -> list[dict[str, str]]:
    """The environments of jobs that run at the same time: a place has devices of its own, as far as there are some.

    Args:
        jobs: how many; None: as many as there are devices for.
        cards: GPUs.
        each: devices that a job takes.
        cores: of the CPU, which jobs on it share.

    Raises:
        ValueError: if there can be none.

    Example:
        >>> places(None, ["0", "1", "2", "3"], 2, 64)
        [{'CUDA_VISIBLE_DEVICES': '0,1'}, {'CUDA_VISIBLE_DEVICES': '2,3'}]
        >>> places(None, [], 1, 8), places(2, [], 1, 8)
        ([{}], [{'OMP_NUM_THREADS': '4'}, {'OMP_NUM_THREADS': '4'}])
    """
    if jobs is not None and (not isinstance(jobs, int) or jobs < 1):
        raise ValueError(f"hydra.launcher.jobs must be a whole number, 1 or more, got {jobs}")
    groups = [",".join(cards[i : i + each]) for i in range(0, len(cards) - each + 1, each)]
    count = jobs or max(1, len(groups))
    if groups:
        return [{"CUDA_VISIBLE_DEVICES": groups[i % len(groups)]} for i in range(count)]
    return [{}] if count == 1 else [{"OMP_NUM_THREADS": str(max(1, cores // (count * each)))} for _ in range(count)]


def run(jobs: Sequence[Job], command: Callable[[Job], Sequence[str]], places: Sequence[Mapping[str, str]]) -> int:
    """Runs those jobs that have not ended well, each in a process and by nobody else, as many at a time as are places.

    A job that fails leaves the others alone. Where several run, what they say goes to ``output.txt`` in their folders.

    Args:
        jobs: of a sweep.
        command: that runs a job.
        places: additions to the environment of whoever runs there.

    Returns:
        0; or, if it was stopped, 128 and the signal's number. Jobs that ran then were told to stop and have ended.
    """
    waiting, free = [job for job in jobs if job.open], list(places)
    running: list[_Running] = []
    spoken: set[int] = set()
    stopped = 0
    try:
        with terminable():
            while waiting or running:
                for job in list(waiting):
                    if free and (started := _started(job, command, free[0], aside=len(places) > 1)):
                        running.append(started)
                        free.pop(0)
                    if not job.open or any(each.job is job for each in running):
                        waiting.remove(job)
                if waiting and not running:
                    for job in waiting:
                        if job.number not in spoken:
                            print(f"job {job.number}: somebody is at work on it in '{job.folder}'; waiting", flush=True)
                            spoken.add(job.number)
                for each in [each for each in running if each.process.poll() is not None]:
                    running.remove(each)
                    free.append(each.place)
                    stopped = each.ended() or stopped
                if stopped:
                    break
                time.sleep(_LOOK)
    except KeyboardInterrupt:  # the jobs got it too
        stopped = 128 + signal.SIGINT
    except SystemExit as told:
        stopped = int(told.code or 0)
    for each in running:
        if stopped != 128 + signal.SIGINT:
            each.process.terminate()  # training saves a checkpoint first
    for each in running:
        each.process.wait()
        each.ended()
    return stopped


class _Running:
    """A job at work, with its lock."""

    def __init__(
        self,
        job: Job,
        process: "subprocess.Popen[bytes]",
        place: Mapping[str, str],
        holds: contextlib.ExitStack,
        aside: bool,
    ) -> None:
        self.job, self.process, self.place, self.holds, self.aside = job, process, place, holds, aside
        self.begun = time.monotonic()

    def ended(self) -> int:
        """Notes how it ended; its exit code if somebody stopped it, else 0."""
        code = self.process.returncode
        stopped = code in STOPPED or code in (-signal.SIGINT, -signal.SIGTERM)
        with self.holds:
            if not stopped:
                self.job.note(code, (time.monotonic() - self.begun) / 60)
        if self.aside:
            print(f"job {self.job.number}: {'stopped' if stopped else f'ended with exit code {code}'}", flush=True)
        return (code if code > 0 else 128 - code) if stopped else 0


def _started(
    job: Job, command: Callable[[Job], Sequence[str]], place: Mapping[str, str], aside: bool
) -> _Running | None:
    """A job at work; None if somebody else is, or if it has ended meanwhile."""
    holds = contextlib.ExitStack()
    with contextlib.ExitStack() as failing:
        try:
            lock = failing.enter_context(held(job.folder / ".job.lock"))
        except ValueError:
            return None
        if not job.open:
            return None
        said = f", {' '.join(f'{k}={v}' for k, v in place.items())}" if place else ""
        print(f"\njob {job.number}: {' '.join(job.overrides)}{said}", flush=True)
        output = failing.enter_context((job.folder / "output.txt").open("ab")) if aside else None
        # A job that outlives a call that was killed keeps its lock.
        process = subprocess.Popen(
            list(command(job)), env={**unranked(os.environ), **place}, stdout=output, stderr=output, pass_fds=[lock]
        )
        holds = failing.pop_all()
    return _Running(job, process, place, holds, aside)


def unranked(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without what makes a process a rank among others.

    Example:
        >>> unranked({"PATH": "/bin", "RANK": "1", "SLURM_PROCID": "1", "RANKED": "yes"})
        {'PATH': '/bin', 'RANKED': 'yes'}
    """
    return {key: value for key, value in environment.items() if key not in RANKED and not key.startswith("SLURM_")}


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM ends the block as an exception would, with the exit code that a shell expects."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
