"""What must hold after any death, judged from bytes on the disk: nothing of the code under test is imported here."""

import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

TIMED = ("train/pictures_per_second",)
"""Of a line of metrics, what a clock says."""


@dataclass(frozen=True)
class Violation:
    """Something that must not be.

    Args:
        kind: what was promised and is not there; what is there twice; what is there and is not as promised.
        what: in a sentence.
    """

    kind: Literal["lost", "doubled", "wrong"]
    what: str


def same_bytes(path: Path, undisturbed: Path) -> list[Violation]:
    """A file is, bit for bit, the one of a run that nobody disturbed."""
    if not path.is_file():
        return [Violation("lost", f"{path.name} is not there")]
    if path.read_bytes() != undisturbed.read_bytes():
        return [Violation("wrong", f"{path.name} differs from the undisturbed run's")]
    return []


def same_lines(path: Path, undisturbed: Path) -> list[Violation]:
    """Every line of metrics of the undisturbed run once, with its values bit for bit, and no other."""
    expected, found = lines(undisturbed), []
    try:
        found = lines(path)
    except OSError:
        return [Violation("lost", f"{path.name} is not there")]
    except ValueError as error:
        return [Violation("wrong", f"{path.name} holds a line that is no JSON: {error}")]
    wanted, there = Counter(map(name_of, expected)), Counter(map(name_of, found))
    said = [Violation("lost", f"no line {name}") for name in wanted - there]
    said += [Violation("doubled", f"{there[name]} lines {name}") for name in there if there[name] > wanted.get(name, 1)]
    said += [Violation("wrong", f"a line {name} that no run has") for name in there.keys() - wanted.keys()]
    values = {name_of(line): line for line in expected}
    differ = {name_of(line) for line in found if values.get(name_of(line), line) != line}
    return said + [Violation("wrong", f"line {name} has other values") for name in sorted(differ)]


def lines(path: Path) -> list[dict[str, float]]:
    """Lines of metrics without what a clock says."""
    read = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMED} for line in read]


def name_of(line: Mapping[str, float]) -> str:
    """A line of metrics by its step and what it measures."""
    return f"{line['step']} {' '.join(sorted(key for key in line if key != 'step'))}"


def mirrored(path: Path, database: Path, folder: Path) -> list[Violation]:
    """MLflow's database has every value of a run's metrics once, bit for bit, and no other."""
    query = (
        "select m.key, m.step, m.value from metrics m join tags t on t.run_uuid = m.run_uuid "
        "where t.key = 'folder' and t.value = ?"
    )
    with closing(sqlite3.connect(database)) as file:
        there = Counter((key, step, value) for key, step, value in file.execute(query, [str(folder)]))
    wanted = Counter((key, line["step"], line[key]) for line in lines(path) for key in line if key != "step")
    lost, more = wanted - there, Counter({each: there[each] for each in there if each[0] not in TIMED}) - wanted
    said = [
        Violation("lost", f"MLflow lacks {n} values of {key}") for key, n in Counter(each[0] for each in lost).items()
    ]
    said += [Violation("doubled", f"MLflow has {each} once more") for each in more if each in wanted]
    return said + [Violation("wrong", f"MLflow has {each}, which no line says") for each in more if each not in wanted]


def sealed(folder: Path) -> list[Violation]:
    """Every checkpoint that has a sum has the right one."""
    said = []
    for path in folder.glob("*.ckpt"):
        sum_ = path.with_name(path.name + ".sha256")
        if sum_.is_file() and sum_.read_bytes().strip() != hashlib.sha256(path.read_bytes()).hexdigest().encode():
            said.append(Violation("wrong", f"{path.name} has not the sum that stands beside it"))
    return said


def registry(home: Path, models: Sequence[Path], alias: str, moves: Sequence[int] | None = None) -> list[Violation]:
    """Every model stands in the registry once, whole, and the alias points at one that is there.

    Args:
        home: of the name in the registry.
        models: folders that were registered, each with its ``model.safetensors``.
        alias: that has been moved.
        moves: versions that it went to, in order; None: some.
    """
    said, found = [], Counter[str]()
    numbers = sorted(int(path.name) for path in home.glob("[0-9]*/"))
    for number in numbers:
        said += whole(home / str(number))
        weights = home / str(number) / "model.safetensors"
        found[hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else ""] += 1
    wanted = {hashlib.sha256((each / "model.safetensors").read_bytes()).hexdigest(): each.name for each in models}
    said += [Violation("lost", f"the model {name} has no version") for sha, name in wanted.items() if not found[sha]]
    said += [Violation("doubled", f"{count} versions of one model") for count in found.values() if count > 1]
    said += [Violation("wrong", "a version of no model") for sha in found if sha not in wanted]
    if numbers != list(range(1, len(numbers) + 1)):
        said.append(Violation("wrong", f"versions are numbered {numbers}"))
    try:
        held = json.loads((home / "aliases.json").read_text())[alias]
    except (OSError, ValueError, KeyError) as error:
        return [*said, Violation("lost", f"no alias {alias}: {error!r}")]
    went = [move["version"] for move in held["moves"]]
    if held["version"] not in numbers or not went or went[-1] != held["version"]:
        said.append(Violation("wrong", f"{alias} is {held['version']} of {numbers} and went {went}"))
    if moves is not None and went != list(moves):
        kind: Literal["doubled", "wrong"] = "doubled" if len(went) > len(moves) else "wrong"
        said.append(Violation(kind, f"{alias} went {went}, not {list(moves)}"))
    return said


def whole(version: Path) -> list[Violation]:
    """A version holds the files that its manifest lists, bit for bit, and no other."""
    try:
        files = json.loads((version / "manifest.json").read_text())["files"]
    except (OSError, ValueError, KeyError) as error:
        return [Violation("wrong", f"version {version.name} has no manifest: {error!r}")]
    there = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in version.iterdir()}
    there.pop("manifest.json")
    return [] if there == files else [Violation("wrong", f"version {version.name} is not what its manifest says")]


def once(events: Iterable[str], wanted: Iterable[str]) -> list[Violation]:
    """Everything that was wanted happened, and nothing twice."""
    counted, names = Counter(events), set(wanted)
    said = [Violation("lost", f"{name} never happened") for name in sorted(names - counted.keys())]
    said += [Violation("doubled", f"{name} happened {n} times") for name, n in counted.items() if n > 1]
    return said + [Violation("wrong", f"{name} happened") for name in sorted(counted.keys() - names)]


def known_pixels(answer: NDArray[np.uint8], picture: NDArray[np.uint8], hole: NDArray[np.bool_]) -> list[Violation]:
    """Outside of its hole a picture is what was sent, value for value."""
    if answer.shape != picture.shape:
        return [Violation("wrong", f"the answer is {answer.shape}, the picture {picture.shape}")]
    changed = int((answer != picture).any(-1)[~hole].sum())
    return [Violation("wrong", f"{changed} known pixels changed")] if changed else []


def same_results(path: Path, undisturbed: Path) -> list[Violation]:
    """Results are those of an undisturbed evaluation to the last digit, but for the seconds."""

    def read(file: Path) -> Any:
        results = json.loads(file.read_text())
        for row in results["rows"]:
            row.pop("seconds_per_image")
        return results

    if not path.is_file():
        return [Violation("lost", f"{path.name} is not there")]
    return [] if read(path) == read(undisturbed) else [Violation("wrong", f"{path.name} has other figures")]
