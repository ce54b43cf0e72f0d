"""Many pictures, each made once, side by side, however often it is cut.

The folder that they go to holds ``restored.jsonl`` beside them: first the settings, then a line for each picture that
is done. So the same call again goes on where it was killed, and other settings are told from these.
"""

import contextlib
import glob
import json
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from diffusion_lab.cli import USER_ERRORS, sentence
from diffusion_lab.data.folder import SUFFIXES, picture_files
from diffusion_lab.files import held, replacing

RECORD = "restored.jsonl"
Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Picture:
    """What is to be made.

    Args:
        name: path below the folder that it comes from, with forward slashes.
        image: its file.
        masks: files that may be its mask: one, if all is well; None where nobody asked for masks.
        output: file that it goes to; with several completions, others beside it.
    """

    name: str
    image: Path
    masks: tuple[Path, ...] | None
    output: Path

    @property
    def mask(self) -> Path | None:
        """The file of its mask; None where nobody asked for masks.

        Raises:
            ValueError: if there is none, or more than one.
        """
        if self.masks is None:
            return None
        if len(self.masks) != 1:
            said = ", ".join(map(str, self.masks)) or "none"
            raise ValueError(f"of masks it must have one of its name, whatever the suffix, and has {said}")
        return self.masks[0]

    def facts(self) -> Facts:
        """By which it is known again: its name, and size and time of the files that it is made of."""
        stats = [path.stat() for path in (self.image, *(self.masks or ())) if path.exists()]
        return {"image": self.name, "of": [[stat.st_size, stat.st_mtime_ns] for stat in stats]}


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


def listed(image: Path, mask: Path | None, output: Path) -> list[Picture]:
    """The pictures that a folder or a pattern names, each with its mask, and where it goes: ``.png``, of the same name.

    Args:
        image: a folder, all of whose pictures are meant, those in folders below too; or a pattern such as
            ``photos/*.jpg``, in which ``**`` goes any number of folders down.
        mask: a file for all of them; or a folder or a pattern, of which each has the one with its own name, whatever
            their suffixes; None for none.
        output: a folder; what lies there is never an image.

    Raises:
        FileNotFoundError: if there are no pictures, or no masks.
        ValueError: if two pictures would become the same file, or one would be overwritten.
    """
    aside = output.resolve()
    images = [
        (name, path)
        for name, path in _found(image)
        if aside not in path.resolve().parents or aside == _root(image).resolve()
    ]
    if not images:
        raise FileNotFoundError(f"image={image} names no pictures: name a folder or a pattern that has some")
    every: tuple[Path, ...] | None = None
    named: dict[str, list[Path]] = {}
    if mask is not None and (mask.is_dir() or is_pattern(mask)):
        for name, path in _found(mask):
            named.setdefault(_stem(name), []).append(path)
        if not named:
            raise FileNotFoundError(f"mask={mask} names no masks: name a folder or a pattern that has some")
    elif mask is not None:
        every = (mask,)
    pictures = []
    taken: dict[Path, str] = {}
    read = {path.resolve() for _, path in images} | {path.resolve() for paths in named.values() for path in paths}
    for name, path in images:
        goes = output / f"{_stem(name)}.png"
        if goes in taken:
            raise ValueError(f"{taken[goes]} and {name} would both become {goes}: give one of them another name")
        if goes.resolve() in read:
            raise ValueError(f"{goes} would be overwritten, and is one of the pictures or masks: name another output")
        taken[goes] = name
        masks = None if mask is None else every or tuple(named.get(_stem(name), ()))
        pictures.append(Picture(name, path, masks, goes))
    return pictures


def is_pattern(path: Path) -> bool:
    """Whether a path stands for others; one with brackets alone is a name, of a file that may be missing."""
    return not path.exists() and bool({"*", "?"} & set(str(path)))


def _root(pattern: Path) -> Path:
    """The folder below which names count: up to the first part of a pattern that is one."""
    if pattern.is_dir():
        return pattern
    plain = [*Path(pattern).parts]
    first = next(number for number, part in enumerate(plain) if glob.has_magic(part))
    return Path(*plain[:first])


def _found(place: Path) -> list[tuple[str, Path]]:
    root = _root(place)
    if place.is_dir():
        names = picture_files(place)
    else:
        found = sorted(glob.glob(str(place), recursive=True))
        names = [Path(each).relative_to(root).as_posix() for each in found if not Path(each).is_dir()]
        names = [name for name in names if Path(name).suffix.lower() in {*SUFFIXES, ".gif"}]
    return [(name, root / name) for name in names]


def _stem(name: str) -> str:
    return str(Path(name).with_suffix("").as_posix())


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


def restored(pictures: Sequence[Picture], output: Path, settings: Facts, make: Make, places: list[str]) -> list[Failed]:
    """Makes all pictures that are not made yet, and shows how far it is.

    Args:
        pictures: from `listed`.
        output: their folder.
        settings: plain; all by which pictures differ, if not by their own files.
        make: as there.
        places: devices of the workers. One is this process; several have a process each.

    Returns:
        Those that failed; the others are made, whatever became of these.

    Raises:
        ValueError: if the folder holds pictures of other settings, or somebody else is at work there, or a worker
            cannot begin.
    """
    with held(output / ".restored.lock"):
        done = begun(output, settings)
        left = [picture for picture in pictures if not _is_made(picture, done, output)]
        if len(left) < len(pictures):
            print(f"{len(pictures) - len(left)} of {len(pictures)} pictures are made already, in {output}", flush=True)
        failed = []
        outcomes = alone(make, places[0], left) if len(places) == 1 else side_by_side(make, places, left)
        with _bar(len(left)) as bar, (output / RECORD).open("a") as record:
            for number, (picture, outcome) in enumerate(outcomes, start=1):
                if isinstance(outcome, Failed):
                    failed.append(outcome)
                    said = f"FAILED {picture.name}: {outcome.error}"
                else:
                    said = "; ".join(outcome.said)
                    files = [path.relative_to(output).as_posix() for path in outcome.files]
                    record.write(json.dumps({**picture.facts(), "wrote": files}) + "\n")
                    record.flush()
                bar.advance(bar.task_ids[0])
                if bar.disable or isinstance(outcome, Failed):
                    bar.console.print(f"{number}/{len(left)}  {said}", highlight=False, markup=False, soft_wrap=True)
        return failed


def begun(output: Path, settings: Facts) -> dict[str, Facts]:
    """The lines of the pictures that are made in a folder, by name; from now on it holds pictures of these settings.

    Raises:
        ValueError: if it holds those of others.
    """
    path = output / RECORD
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    facts = [_parsed(line) for line in lines]
    known = [fact for fact in facts if fact is not None]  # one that was cut is no fact
    wanted = json.loads(json.dumps(settings))
    if known and (before := known[0].get("settings")) != wanted:
        keys = [key for key in {**wanted, **(before or {})} if (before or {}).get(key) != wanted.get(key)]
        said = ", ".join(f"{key}={(before or {}).get(key)}, and now {wanted.get(key)}" for key in keys)
        raise ValueError(f"'{output}' holds pictures that were made with {said}: name another output")
    done: dict[str, Facts] = {fact["image"]: fact for fact in known[1:]}
    with replacing(path) as fresh:
        fresh.write_text("".join(json.dumps(fact) + "\n" for fact in [{"settings": wanted}, *done.values()]))
    return done


def _parsed(line: str) -> dict[str, Any] | None:
    with contextlib.suppress(ValueError):
        return dict(json.loads(line))
    return None


def _is_made(picture: Picture, done: Mapping[str, Facts], output: Path) -> bool:
    fact = done.get(picture.name)
    if fact is None or {**picture.facts(), "wrote": fact["wrote"]} != fact:
        return False
    return all((output / name).is_file() for name in fact["wrote"])


def _bar(total: int) -> Progress:
    columns = (TextColumn("restoring"), BarColumn(), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn())
    bar = Progress(*columns, disable=not sys.stdout.isatty())
    bar.add_task("", total=total)
    return bar


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
