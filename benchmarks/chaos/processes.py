"""Processes that start warm, and are struck at a moment of their own CPU time, whatever else the machine does."""

import contextlib
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
PATIENCE = 600.0
"""Seconds after which something hangs."""


class Child:
    """A fork of this process in a session of its own.

    It starts with all that is imported here, so that a round takes what the work takes and not what imports do.

    Args:
        work: what it does; what it returns is its exit code, None is 0.
        log: file that what it says is added to.
        environment: additions to it.
        arguments: of its command line, the script's name first.
    """

    def __init__(
        self,
        work: Callable[[], object],
        log: Path,
        environment: Mapping[str, str] | None = None,
        arguments: list[str] | None = None,
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        sys.stdout.flush()
        self.code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _live(work, log, environment or {}, arguments)

    @classmethod
    def of(cls, pid: int) -> "Child":
        """A process that somebody else started: it can be struck, and is not waited for."""
        found = cls.__new__(cls)
        found.pid, found.code = pid, None
        return found

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it lives."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def wait(self, seconds: float = PATIENCE) -> int:
        """Its exit code.

        Raises:
            TimeoutError: if it hangs; it is killed then.
        """
        until = time.monotonic() + seconds
        while (code := self.poll()) is None:
            if time.monotonic() > until:
                self.signal(signal.SIGKILL, everybody=True)
                os.waitpid(self.pid, 0)
                self.code = -signal.SIGKILL
                raise TimeoutError(f"process {self.pid} did not end within {seconds:.0f} s")
            time.sleep(0.01)
        return code

    def signal(self, number: int, everybody: bool = False) -> None:
        """Sends it a signal, or to all that it started too."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number) if everybody else os.kill(self.pid, number)

    def seconds(self) -> float:
        """CPU time that it and all of its session have taken."""
        return sum(ticks for _, ticks in _members(self.pid)) / TICK

    def members(self) -> list[int]:
        """Processes of its session."""
        return [pid for pid, _ in _members(self.pid)]


def _live(work: Callable[[], object], log: Path, environment: Mapping[str, str], arguments: list[str] | None) -> None:
    """The life of a child, which never comes back."""
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.environ.update(environment)
        sys.argv = arguments or sys.argv
        code = int(work() or 0)  # type: ignore[call-overload]
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _members(session: int) -> list[tuple[int, int]]:
    """(process, ticks of CPU time with those of its dead children) of a session."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError):
                text = Path("/proc", name, "stat").read_text()
                fields = text.rpartition(")")[2].split()
                if int(fields[3]) == session:
                    found.append((int(name), sum(map(int, fields[11:15]))))
    return found


def offspring(process: int) -> set[int]:
    """All that descend from a process, whatever session they are of."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                state, parent = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()[:2]
                if state != "Z":
                    parents[int(name)] = int(parent)
    found, new = set[int](), {process}
    while new:
        new = {child for child, parent in parents.items() if parent in new} - found
        found |= new
    return found


def standstill(rng: random.Random) -> float:
    """Seconds between SIGSTOP and SIGCONT: half a second to three, and one time in ten up to twenty."""
    return rng.uniform(3.0, 20.0) if rng.random() < 0.1 else rng.uniform(0.5, 3.0)


def strike(
    child: Child, number: int, moment: float, rng: random.Random, everybody: bool = True, wall: bool = False
) -> bool:
    """Sends a signal when a process has taken so much CPU time, and a little later; whether it still lived.

    SIGSTOP is followed by SIGCONT after a `standstill`. By the clock on the wall for who mostly waits.
    """
    begun = time.monotonic()
    until = begun + PATIENCE
    while child.poll() is None and time.monotonic() < until:
        if moment <= (time.monotonic() - begun if wall else child.seconds()):
            break
        time.sleep(0.01)
    time.sleep(rng.uniform(0, 0.03))
    if child.poll() is not None:
        return False
    child.signal(number, everybody)
    if number == signal.SIGSTOP:
        time.sleep(standstill(rng))
        child.signal(signal.SIGCONT, everybody)
    return True
