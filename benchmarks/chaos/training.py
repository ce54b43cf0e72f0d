"""Training: the trainer, a worker that loads its data, one of its two ranks."""

import random
import runpy
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from chaos import oracle
from chaos.processes import PATIENCE, Child, standstill, strike
from chaos.round import SIGNALS, Outcome, ended

ROOT = Path(__file__).parents[2]
STEPS, EVERY = 16, 4
SETTINGS = [
    *("data=celeba", "data.image_size=8", "data.batch_size=4", "model=unet", "model.channels=32"),
    *("model.multipliers=[1]", "model.depth=1", "metrics=none", "sampler.steps=2", "callbacks.samples.count=1"),
    *("trainer.precision=32-true", "trainer.accelerator=cpu", "trainer.log_every_n_steps=1", "logger=jsonl"),
    *(f"trainer.max_steps={STEPS}", "trainer.validations=2", f"callbacks.checkpoint.every_n_train_steps={EVERY}"),
    *("callbacks.stop.every_n_steps=2", "name=chaos"),
]
"""The smallest training: 8 px, 16 steps, two validations, a checkpoint after every 4th."""


def faces(root: Path, count: int = 40) -> Path:
    """A folder in CelebA's format of pictures from a seed; 32 are to be trained on."""
    if not (root / "list_eval_partition.txt").is_file():
        (root / "img_align_celeba").mkdir(parents=True, exist_ok=True)
        names = [f"{i + 1:06d}.jpg" for i in range(count)]
        for i, name in enumerate(names):
            coarse = np.random.default_rng(i).integers(0, 256, (3, 3, 3), dtype=np.uint8)
            picture = Image.fromarray(coarse).resize((178, 218), Image.Resampling.BICUBIC)
            picture.save(root / "img_align_celeba" / name, quality=95)
        parts = "".join(f"{name} {(0, 0, 0, 0, 0, 0, 0, 0, 1, 2)[i % 10]}\n" for i, name in enumerate(names))
        (root / "list_eval_partition.txt").write_text(parts)
    return root


def script(name: str) -> Callable[[], object]:
    """Runs one of the scripts as a person would; its arguments are the child's."""

    def run() -> None:
        runpy.run_path(str(ROOT / f"{name}.py"), run_name="__main__")

    return run


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Trainer:
    """`train.py`, killed and taken up again by `resume=auto`.

    Args:
        ranks: processes that train together.
        workers: that load data, per rank.
        only: whom a blow hits: "all" of the run, one "worker", or one "rank".
        extra: settings of this kind of training.
    """

    def __init__(self, ranks: int = 1, workers: int = 0, only: str = "all", extra: tuple[str, ...] = ()) -> None:
        self.ranks, self.workers, self.only, self.extra = ranks, workers, only, extra

    @property
    def kind(self) -> str:
        return f"training-{self.ranks}-{self.workers}" + ("-more" if self.extra else "")

    def prepare(self, folder: Path) -> None:
        """The undisturbed run."""
        self.home = folder
        self.undisturbed = folder / self.kind / "undisturbed" / "chaos" / "run"
        self.took = folder / self.kind / "cpu"
        if not self.took.is_file():
            faces(folder / "faces")
            warm = folder / self.kind / "warm" / "chaos" / "run"  # the first of all fills caches, and takes longer
            for run in (warm, self.undisturbed):
                children = self.start(run.parents[1], self.command(run))
                seconds = self.until_end(children)
                if any(child.wait() for child in children):
                    raise RuntimeError(f"the undisturbed run failed: see {run.parents[1]}")
            self.took.write_text(str(seconds))
        self.seconds = float(self.took.read_text())

    def round(self, folder: Path, rng: random.Random) -> Outcome:
        run, outcome = folder / "chaos" / "run", Outcome()
        children = self.start(folder, self.command(run))
        number, moment = rng.choice(SIGNALS), rng.uniform(0.05, 1.0) * self.seconds
        if self.only == "worker":
            number = signal.SIGKILL if number == signal.SIGTERM else number  # workers leave SIGTERM to their trainer
        struck = self.hit(children, number, moment, rng)
        outcome.blows.append(f"{signal.Signals(number).name} at {moment:.2f} CPU s" + ("" if struck else ", too late"))
        codes = [self.end(child, outcome) for child in children]
        self.again(folder, run, outcome, any(codes))
        return outcome

    def end(self, child: Child, outcome: Outcome) -> int:
        """Waits for a rank; one that does not miss the others in a minute and a half is ended, as torchrun would."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            until = time.monotonic() + (90 if self.ranks > 1 else PATIENCE)
            while child.poll() is None and time.monotonic() < until:
                time.sleep(0.02)
            if child.poll() is None:
                outcome.blows.append(f"{number.name} to a rank that was left over")
                child.signal(number, everybody=True)
        return child.wait()

    def again(self, folder: Path, run: Path, outcome: Outcome, failed: bool, damaged: str = "") -> None:
        """Goes on by the documented word, if it did not end well; and asks the oracle."""
        lines = (run / "metrics.jsonl", self.undisturbed / "metrics.jsonl")
        if failed:
            begun = any((run / "checkpoints").glob("*.ckpt"))
            words = ["name=chaos", f"paths.logs={folder}", "resume=auto"] if begun else self.command(run)
            for child in self.start(folder, words):
                ended(outcome, child.wait(), "the resumed training")
        outcome.violations += oracle.same_lines(*lines)
        weights = Path("inpainter", "model.safetensors")
        outcome.violations += oracle.same_bytes(run / weights, self.undisturbed / weights)
        outcome.violations += [
            each for each in oracle.sealed(run / "checkpoints") if damaged not in each.what or not damaged
        ]

    def command(self, run: Path) -> list[str]:
        own = [f"data.root={self.home / 'faces'}", f"paths.cache={self.home / 'cache'}", f"hydra.run.dir={run}"]
        shape = [f"trainer.devices={self.ranks}", f"data.num_workers={self.workers}"]
        return [*SETTINGS, *self.extra, *shape, *own, f"paths.logs={run.parents[1]}"]

    def start(self, folder: Path, words: list[str], environment: dict[str, str] | None = None) -> list[Child]:
        """All ranks, started as torchrun would."""
        ranked = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(self.ranks)}
        children = []
        for rank in range(self.ranks):
            place = {**ranked, "LOCAL_RANK": str(rank), "RANK": str(rank)} if self.ranks > 1 else {}
            log = folder / f"output{rank}.txt"
            children.append(Child(script("train"), log, {**place, **(environment or {})}, ["train.py", *words]))
        return children

    def until_end(self, children: list[Child]) -> float:
        """CPU seconds of the first."""
        seconds = 0.0
        while children[0].poll() is None:
            seconds = max(seconds, children[0].seconds())
            time.sleep(0.01)
        return seconds

    def hit(self, children: list[Child], number: int, moment: float, rng: random.Random) -> bool:
        if self.only == "worker":
            return self.hit_a_worker(children[0], number, moment, rng)
        return strike(children[rng.randrange(len(children)) if self.only == "rank" else 0], number, moment, rng)

    def hit_a_worker(self, trainer: Child, number: int, moment: float, rng: random.Random) -> bool:
        """One process that the trainer has started, once there is one."""
        while trainer.poll() is None:
            workers = [pid for pid in trainer.members() if pid != trainer.pid]
            if workers and trainer.seconds() >= moment:
                worker = Child.of(rng.choice(workers))
                worker.signal(number)
                if number == signal.SIGSTOP:
                    time.sleep(standstill(rng))
                    worker.signal(signal.SIGCONT)
                return True
            time.sleep(0.01)
        return False
