"""Who is told what a training does, and hangs: W&B never answers, a server of MLflow stands still for some time."""

import atexit
import random
import signal
import socket
import subprocess
import time
import urllib.request
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from chaos import oracle
from chaos.processes import Child, standstill
from chaos.round import Outcome, ended
from chaos.training import Trainer, free_port

START = 120.0
"""Seconds that a server of MLflow may take to answer first."""


class HangingWandb(Trainer):
    """A training that is logged in to a W&B which takes every call and answers none."""

    def round(self, folder: Path, rng: random.Random) -> Outcome:
        outcome, run = Outcome(["W&B never answers"]), folder / "chaos" / "run"
        with socket.socket() as ear:
            ear.bind(("127.0.0.1", 0))
            ear.listen(64)
            environment = {
                "WANDB_API_KEY": "a" * 40,
                "WANDB_BASE_URL": f"http://127.0.0.1:{ear.getsockname()[1]}",
                "HOME": str(folder),
            }
            words = [word for word in self.command(run) if not word.startswith("logger=")]
            (child,) = self.start(folder, words, environment)
            ended(outcome, child.wait(), "the training")
        self.again(folder, run, outcome, False)
        return outcome


class HangingMLflow(Trainer):
    """A training that tells MLflow, a real server that stands still for some time; every other one is killed too.

    The server is its own package, which `uvx` brings: what the project installs is the client.
    """

    def __init__(self) -> None:
        super().__init__()
        self.port = free_port()

    @property
    def kind(self) -> str:
        return "training-mlflow"

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def prepare(self, folder: Path) -> None:
        self.database = folder / "mlflow.db"
        package = f"mlflow=={version('mlflow-skinny')}"
        command = ["uvx", "--from", package, "mlflow", "server", "--port", str(self.port), "--workers", "1"]
        places = [
            "--backend-store-uri",
            f"sqlite:///{self.database}",
            "--artifacts-destination",
            str(folder / "mlflow"),
        ]
        with (folder / "mlflow.txt").open("a") as said:
            started = subprocess.Popen([*command, *places], stdout=said, stderr=said, start_new_session=True)
        self.server = Child.of(started.pid)
        atexit.register(self.server.signal, signal.SIGKILL, True)
        self.until_it_answers()
        super().prepare(folder)

    def until_it_answers(self) -> None:
        until = time.monotonic() + START
        while time.monotonic() < until:
            with suppress(OSError):
                urllib.request.urlopen(f"{self.address}/health", timeout=START).read()
                return
            time.sleep(0.1)
        raise TimeoutError(f"MLflow does not answer at {self.address}")

    def round(self, folder: Path, rng: random.Random) -> Outcome:
        outcome, run = Outcome(), folder / "chaos" / "run"
        killed, for_good = rng.random() < 0.5, rng.random() < 0.15
        first, second = sorted(rng.uniform(0.0, 1.0) * self.seconds for _ in range(2))
        (child,) = self.start(folder, self.command(run))
        self.until(child, first)
        try:
            self.server.signal(signal.SIGSTOP, everybody=True)
            outcome.blows.append(f"MLflow stands still at {first:.2f} CPU s" + " for good" * for_good)
            if killed:
                self.until(child, second)
                struck = child.poll() is None
                child.signal(signal.SIGKILL, everybody=True)
                outcome.blows.append(f"SIGKILL at {second:.2f} CPU s" + ("" if struck else ", too late"))
            if for_good:
                child.wait()
            else:
                time.sleep(standstill(rng))
        finally:
            self.server.signal(signal.SIGCONT, everybody=True)
        code = child.wait()
        if not killed:
            ended(outcome, code, "the training")
        self.again(folder, run, outcome, code != 0)
        lacking = oracle.mirrored(run / "metrics.jsonl", self.database, run)
        if not (for_good and "did not reach MLflow" in (folder / "output0.txt").read_text()):
            outcome.violations += lacking
        return outcome

    def command(self, run: Path) -> list[str]:
        return ["logger=mlflow" if word.startswith("logger=") else word for word in super().command(run)]

    def start(self, folder: Path, words: list[str], environment: dict[str, str] | None = None) -> list[Child]:
        return super().start(folder, words, {"MLFLOW_TRACKING_URI": self.address, **(environment or {})})

    def until(self, child: Child, moment: float) -> None:
        """Until so many CPU seconds, or as long as a training that waits for nothing takes at most."""
        latest = time.monotonic() + 10 + moment
        while child.poll() is None and child.seconds() < moment and time.monotonic() < latest:
            time.sleep(0.01)
