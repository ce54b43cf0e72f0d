"""Workers that make pictures side by side, each in a process of its own; one that dies takes one picture with it."""

import contextlib
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

import torch

from diffusion_lab.cli import USER_ERRORS, sentence
from diffusion_lab.restoring.albums import Picture


class Made(NamedTuple):
    """What became of a picture.

    Args:
        files: that were written.
        said: lines for a person.
    """

    files: tuple[Path, ...]
    said: tuple[str, ...]


class Failed(NamedTuple):
    """Why there is nothing of a picture, in a sentence."""

    picture: Picture
    error: str


Restore = Callable[[Path, Path | None, Path], Made]
"""(image, mask, output): writes one picture, or several beside each other."""
Make = Callable[[str], Restore]
"""Makes one on a device, by whatever process needs it: so it must be picklable."""


def devices(asked: str, workers: int | None) -> list[str]:
    """Where workers are at work, one after the other.

    Args:
        asked: ``auto`` goes over all GPUs in turns; any other device is everybody's.
        workers: how many; None is one for each GPU, or one.

    Raises:
        ValueError: for another number.

    Example:
        >>> devices("cpu", 2), devices("cuda:1", None)
        (['cpu', 'cpu'], ['cuda:1'])
    """
    if workers is not None and (type(workers) is not int or workers < 1):
        raise ValueError(f"workers={workers} must be a whole number, 1 or more, or null: one for each GPU")
    cards = torch.cuda.device_count() if asked == "auto" else 0
    names = [f"cuda:{card}" for card in range(cards)] or [asked]
    return [names[number % len(names)] for number in range(workers or len(names))]


def attempt(restore: Restore, picture: Picture) -> Made | Failed:
    """What comes of one picture; nothing that goes wrong with it stops the others."""
    try:
        return restore(picture.image, picture.mask, picture.output)
    except Exception as error:
        said = sentence(error)
        return Failed(picture, said if isinstance(error, USER_ERRORS) else f"{type(error).__name__}: {said}")


Outcomes = Iterator[tuple[Picture, Made | Failed]]


def alone(make: Make, device: str, pictures: Sequence[Picture]) -> Outcomes:
    """Makes pictures one after the other, in this process."""
    restore = make(device)
    for picture in pictures:
        yield picture, attempt(restore, picture)


def side_by_side(make: Make, places: Sequence[str], pictures: Sequence[Picture]) -> Outcomes:
    """Makes pictures in processes of their own, each of which takes the next one when it is done with one.

    A process that dies takes one picture with it, and another one goes on in its place.

    Raises:
        ValueError: if one cannot begin.
    """
    waiting = deque(pictures)
    workers = [_Worker(make, device) for device in places[: len(pictures)]]
    try:
        while workers:
            ready = wait([worker.pipe for worker in workers])
            for worker in [worker for worker in workers if worker.pipe in ready]:
                try:
                    said = worker.pipe.recv()
                except EOFError:
                    workers.remove(worker)
                    yield worker.died()
                    if waiting:
                        workers.append(_Worker(make, worker.device))
                    continue
                if worker.picture is not None:
                    yield worker.picture, said
                elif said is not None:
                    raise ValueError(said)
                worker.picture = waiting.popleft() if waiting else None
                worker.pipe.send(worker.picture)
                if worker.picture is None:
                    worker.process.join()
                    workers.remove(worker)
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.join()


class _Worker:
    """A process that makes pictures; `picture` is the one that it is at."""

    def __init__(self, make: Make, device: str) -> None:
        fresh = multiprocessing.get_context("spawn")  # a fork would not do with CUDA, nor with threads
        self.device = device
        self.pipe, other = fresh.Pipe()
        self.process = fresh.Process(target=_work, args=(make, device, other), daemon=True)
        self.picture: Picture | None = None
        self.process.start()
        other.close()  # so that its death is the end of the pipe

    def died(self) -> tuple[Picture, Failed]:
        """What is to be said of that.

        Raises:
            ValueError: if it had not begun: the next one would not, either.
        """
        self.process.join()
        code = self.process.exitcode or 0
        how = f"by signal {-code}, which may be want of memory" if code < 0 else f"with exit code {code}"
        if self.picture is None:
            raise ValueError(f"a worker on {self.device} ended {how} before it had its model: take fewer workers")
        return self.picture, Failed(self.picture, f"its worker ended {how}")


def _work(make: Make, device: str, pipe: "Connection[Any, Any]") -> None:
    """What a worker does: says None when it is ready, or why it cannot be; then makes what it is sent, until None."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who began it ends it
    try:
        restore = make(device)
    except USER_ERRORS as error:
        pipe.send(sentence(error))
        return
    with contextlib.suppress(EOFError, BrokenPipeError):  # who began it is gone
        pipe.send(None)
        while (picture := pipe.recv()) is not None:
            pipe.send(attempt(restore, picture))
    os._exit(0)  # without waiting for what libraries do at the end
