"""The service in front of two replicas on Ray, of which one is struck under load: nobody notices."""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch

from chaos.oracle import Violation
from chaos.processes import Child, offspring, standstill
from chaos.round import Outcome
from chaos.service import Service
from diffusion_lab.serving.cluster import replicated
from diffusion_lab.serving.run import serve

GONE = 60.0
"""Seconds within which nothing of Ray is left after the service's end."""


def host(model: Path, port: int) -> None:
    torch.set_num_threads(1)
    serve(model, "chaos", port=port, engine=partial(replicated, replicas=2, cpus=0.5, max_batch=4), drain=30.0)


class Replicas(Service):
    """The same jobs and clients; the blow hits a replica, and the service itself goes on."""

    host = staticmethod(host)

    def prepare(self, folder: Path) -> None:
        alone = Service()  # in one process, which makes the same pictures
        alone.prepare(folder)
        self.model, self.undisturbed = alone.model, alone.undisturbed

    def round(self, folder: Path, rng: random.Random | None) -> Outcome:
        self.processes = set[int]()
        outcome = super().round(folder, rng)
        until = time.monotonic() + GONE
        while (left := {pid for pid in self.processes if Path(f"/proc/{pid}").exists()}) and time.monotonic() < until:
            time.sleep(0.1)
        if left:
            outcome.violations.append(Violation("wrong", f"{len(left)} processes of Ray outlive the service"))
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        return outcome

    def hit(
        self, service: Child, number: int, again: Callable[[], Child], rng: random.Random, outcome: Outcome
    ) -> Child:
        self.processes = offspring(service.pid)
        victim = rng.choice(sorted(pid for pid in self.processes if "ServeReplica" in called(pid)))
        os.kill(victim, number)
        if number == signal.SIGSTOP:
            time.sleep(standstill(rng))
            os.kill(victim, signal.SIGCONT)
        return service

    def judged(self, folder: Path, heard: Path, number: int, struck: float) -> list[Violation]:
        """Whoever asked was answered the first time."""
        notes = [json.loads(line) for line in heard.read_text().splitlines()]
        amiss = [note for note in notes if note["what"] not in ("answered", "failed")]  # those are judged already
        said = [Violation("lost", f"job {note['job']} was {note['what']}: {note}") for note in amiss]
        return super().judged(folder, heard, number, struck) + said


def called(pid: int) -> str:
    """The command line of a process; empty once it has gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""
