"""Whose a folder is: one process's, as long as that lives."""

import errno
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from diffusion_lab.files import held

HOLDER = """
import os, sys, time
from pathlib import Path
from diffusion_lab.files import held
with held(Path(sys.argv[1])):
    if not os.fork():  # as a worker that loads data is made
        print(os.getpid(), flush=True)  # by itself: now it has let go
    time.sleep(600)
"""


def test_a_second_one_is_told_who_is_there(tmp_path: Path) -> None:
    lock = tmp_path / "run, [é]" / ".lock"
    before = datetime.now().replace(microsecond=0)
    with held(lock):
        said = (
            rf"process {os.getpid()} on {re.escape(socket.gethostname())}, since .* is at work in '.*/run, \[é\]': wait"
        )
        with pytest.raises(ValueError, match=said), held(lock):
            pass
        with pytest.raises(ValueError, match=said), held(lock):  # the first refusal has not taken it away
            pass
        assert before <= datetime.fromisoformat(json.loads(lock.read_text())["since"]) <= datetime.now()
    with held(lock):
        pass


def test_one_that_has_not_written_its_name_yet_is_refused_all_the_same(tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match=r"^another process, or one that it started, is at work"):
            held(tmp_path / ".lock").__enter__()


def test_a_dead_holder_locks_nobody_out_though_a_fork_of_it_lives(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(lock)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    try:
        with pytest.raises(ValueError, match=f"process {holder.pid} on"), held(lock):
            pass
        holder.kill()
        holder.wait()
        os.kill(child, 0)  # it lives
        with held(lock):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        holder.kill()
        holder.stdout.close()


def test_where_there_are_no_locks_it_is_said_and_work_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.warns(UserWarning, match="its file system has no locks"), held(tmp_path / ".lock"):
        pass
