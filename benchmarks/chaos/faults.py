"""Faults without a kill: no room, no right to write, flipped bytes, a clock that jumps."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chaos import oracle
from chaos.keeping import models, write
from chaos.oracle import Violation
from chaos.processes import Child, strike
from chaos.round import Outcome, ended
from chaos.training import Trainer, script

CHECKPOINT = 3 * 2**20
"""Bytes of one, about."""


@contextmanager
def disk(place: Path, megabytes: int) -> Iterator[None]:
    """A small file system of its own; mounting one takes root."""
    place.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "chaos", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def flip(path: Path, rng: random.Random) -> str:
    """Changes one bit of a file, or cuts its end off; says which."""
    content = bytearray(path.read_bytes())
    path.chmod(0o644)
    at = rng.randrange(len(content))
    if rng.random() < 0.3:
        path.write_bytes(content[:at])
        return f"{path.name} cut at {at}"
    content[at] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return f"{path.name} flipped at {at}"


class FullDisk(Trainer):
    """A training whose disk fills up, is emptied again, and which goes on."""

    def round(self, folder: Path, rng: random.Random) -> Outcome:
        outcome, place = Outcome(), folder / "disk"
        with disk(place, 64):
            run, ballast = place / "chaos" / "run", place / "ballast"
            free = int(rng.uniform(0.0, 4.0) * CHECKPOINT)
            ballast.write_bytes(bytes(64 * 2**20 - free - 2**16))
            outcome.blows.append(f"disk of {free / 2**20:.1f} MiB")
            (child,) = self.start(place, self.command(run))
            moment, freed = rng.uniform(0.2, 1.0) * self.seconds, rng.random() < 0.5
            while child.poll() is None and child.seconds() < moment:
                time.sleep(0.01)
            if freed:
                ballast.unlink()
            code = child.wait()
            ballast.unlink(missing_ok=True)
            outcome.blows.append(f"exit code {code}")
            self.again(place, run, outcome, code != 0)
        return outcome


class ReadOnly(Trainer):
    """A training that may not write where it was told to: it says so, and writes there once it may."""

    def round(self, folder: Path, rng: random.Random) -> Outcome:
        outcome, place = Outcome(["disk read-only"]), folder / "disk"
        with disk(place, 64):
            subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
            child = Child(
                script("train"), folder / "said.txt", {}, ["train.py", *self.command(place / "chaos" / "run")]
            )
            code, said = child.wait(), (folder / "said.txt").read_text()
            if code == 0 or "Traceback" in said or "error: " not in said:
                outcome.violations.append(Violation("wrong", f"on a read-only disk: exit code {code}, {said[-200:]!r}"))
            subprocess.run(["mount", "-o", "remount,rw", str(place)], check=True)
            self.again(place, place / "chaos" / "run", outcome, True)
        return outcome


class BadCheckpoint(Trainer):
    """A training that was killed, and one of whose checkpoints, or sums, is damaged then."""

    def round(self, folder: Path, rng: random.Random) -> Outcome:
        outcome, run = Outcome(), folder / "chaos" / "run"
        children = self.start(folder, self.command(run))
        strike(children[0], signal.SIGKILL, rng.uniform(0.5, 1.0) * self.seconds, rng)
        code = children[0].wait()
        found = sorted((run / "checkpoints").glob("step=*"))
        damaged = ""
        if found:
            victim = rng.choice(found)
            outcome.blows.append(flip(victim, rng))
            damaged = victim.name.removesuffix(".sha256")
        whole = [
            path
            for path in (run / "checkpoints").glob("*.ckpt")
            if not any(each.kind == "wrong" for each in oracle.sealed(run / "checkpoints") if path.name in each.what)
            and path.with_name(path.name + ".sha256").is_file()
        ]
        if found and not whole:  # the only one: a new run is asked for, in a sentence
            words = ["name=chaos", f"paths.logs={folder}", "resume=auto"]
            child = Child(script("train"), folder / "said.txt", {}, ["train.py", *words])
            code, said = child.wait(), (folder / "said.txt").read_text()
            if code != 1 or "damaged" not in said or "Traceback" in said:
                outcome.violations.append(Violation("wrong", f"no whole checkpoint: exit code {code}, {said[-200:]!r}"))
            return outcome
        self.again(folder, run, outcome, code != 0, damaged)
        return outcome


class BadCache(Trainer):
    """A training whose cache of pictures has lost its end, or whose facts of it are damaged."""

    def round(self, folder: Path, rng: random.Random) -> Outcome:
        outcome, run, cache = Outcome(), folder / "chaos" / "run", folder / "cache"
        subprocess.run(["cp", "-r", str(self.home / "cache"), str(cache)], check=True)
        victim = rng.choice(sorted(cache.glob("*-train-*/*")))
        if victim.name == "images.bin":
            os.truncate(victim, rng.randrange(victim.stat().st_size))
            outcome.blows.append("images.bin cut")
        else:
            outcome.blows.append(flip(victim, rng))
        words = [
            word.replace(f"paths.cache={self.home / 'cache'}", f"paths.cache={cache}") for word in self.command(run)
        ]
        child = Child(script("train"), folder / "said.txt", {}, ["train.py", *words])
        code, said = child.wait(), (folder / "said.txt").read_text()
        if code != 0:
            outcome.violations.append(Violation("wrong", f"exit code {code}: {said[-200:]!r}"))
            return outcome
        self.again(folder, run, outcome, False)
        return outcome


class BadRegistry:
    """A registry of which one bit is another: `verify` says so, and nothing damaged gets an alias."""

    def prepare(self, folder: Path) -> None:
        self.models = models(folder / "registry", 4)[:2]

    def round(self, folder: Path, rng: random.Random) -> Outcome:
        outcome, root = Outcome(), folder / "registry"
        ended(outcome, Child(lambda: write(root, self.models), folder / "output.txt").wait(), "the writer")
        versions = sorted((root / "faces").glob("[0-9]*/*"))
        victim = rng.choice(versions)
        outcome.blows.append(flip(victim, rng))
        if not oracle.whole(victim.parent) and victim.name != "manifest.json":
            raise RuntimeError("the oracle saw nothing")

        def verified() -> int:
            from diffusion_lab.registry import Registry
            from diffusion_lab.registry.gate import by_hand

            registry, number = Registry(root), int(victim.parent.name)
            wrong = registry.verify()
            print(wrong)
            try:
                registry.promote("faces", number, by_hand(f"faces@{number}", "chaos"), "newest")
            except ValueError as error:
                print(error)
                return 0 if len(wrong) == 1 and wrong[0].startswith(f"faces@{number}") else 3
            return 4

        ended(outcome, Child(verified, folder / "verified.txt").wait(), "verify")
        return outcome


class Clock(Trainer):
    """A training that is killed, and whose clock and files' times are anything when it goes on."""

    def round(self, folder: Path, rng: random.Random) -> Outcome:
        outcome, run = Outcome(), folder / "chaos" / "run"
        children = self.start(folder, self.command(run))
        strike(children[0], signal.SIGKILL, rng.uniform(0.4, 1.0) * self.seconds, rng)
        code = children[0].wait()
        for path in run.rglob("*"):
            at = time.time() + rng.uniform(-1e7, 1e7)
            os.utime(path, (at, at), follow_symlinks=False)
        offset, real = rng.uniform(-1e8, 1e8), time.time
        outcome.blows.append(f"clock {offset / 86400:+.0f} days")
        time.time = lambda: real() + offset  # children are forks
        try:
            self.again(folder, run, outcome, code != 0)
        finally:
            time.time = real
        return outcome
