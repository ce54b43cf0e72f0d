"""Numbered versions in a plain folder: written once, whole or not at all, and never changed; aliases point at them."""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors.torch import save_file

from diffusion_lab.cascade import load
from diffusion_lab.files import flush, replacing
from diffusion_lab.registry.gate import Candidate, Decision, now
from diffusion_lab.registry.manifest import digests, faults, parsed, recorded, seal
from diffusion_lab.registry.probes import golden

PRODUCTION = "production"
ALIASES, DECISIONS = "aliases.json", "decisions"
UNFINISHED = ".unfinished-"
ABANDONED = 86_400  # seconds after which an unfinished version has no writer any more


class Moved(ValueError):
    """The alias is no longer where it was when the gate compared with it."""


@dataclass(frozen=True)
class Version:
    """A version in the registry.

    Args:
        name: of the model.
        number: counts from 1.
        folder: holds it.
        aliases: that point at it.
    """

    name: str
    number: int
    folder: Path
    aliases: tuple[str, ...]

    @property
    def label(self) -> str:
        return f"{self.name}@{self.number}"


class Registry:
    """Models below a folder: ``<root>/<name>/<number>/``, and ``<root>/<name>/aliases.json`` beside the versions.

    Any number of processes may write at once, on a file system that has `flock`.

    Args:
        root: made when the first model is registered.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def register(
        self,
        name: str,
        folder: Path | str,
        results: Path | str,
        card: str,
        inputs: Mapping[str, Any] | None = None,
    ) -> int:
        """Takes a copy of a model as the next version; the very same model again is the version that it was.

        Args:
            name: of the model: small letters, digits, dots, dashes.
            folder: of an inpainter; only its safetensors and its recipe are taken.
            results: the `results.json` that `evaluate.py` wrote of it.
            card: its model card.
            inputs: what it saw in training, from `inputs`, for `diffusion_lab.serving.monitor`; None leaves that out.

        Returns:
            The number of the version.

        Raises:
            OSError: if a file is missing or cannot be written.
            ValueError: if the model does not load, or makes values that are not finite, or the name is not fit.
        """
        home = self._home(name)
        home.mkdir(parents=True, exist_ok=True)
        _sweep(home)
        fresh = Path(tempfile.mkdtemp(dir=home, prefix=UNFINISHED))
        at_work = os.open(fresh, os.O_RDONLY)
        try:
            _lock(at_work)
            for file in ("model.safetensors", "recipe.json"):
                shutil.copyfile(Path(folder) / file, fresh / file)
            shutil.copyfile(results, fresh / "results.json")
            parsed(fresh / "results.json")
            (fresh / "card.md").write_text(card, encoding="utf-8")
            if inputs is not None:
                (fresh / "inputs.json").write_text(json.dumps(inputs), encoding="utf-8")
            given = digests(fresh)
            save_file(golden(load(fresh)), fresh / "golden.safetensors")
            seal(fresh, now())
            for path in fresh.iterdir():
                path.chmod(0o444)
                flush(path)
            fresh.chmod(0o755)
            flush(fresh)
            with self._locked(name):
                same = [each.number for each in self.list(name) if given.items() <= recorded(each.folder).items()]
                if same:
                    return same[-1]
                number = self._last(name) + 1
                os.rename(fresh, home / str(number))  # fails where something stands
                flush(home)
                return number
        finally:
            os.close(at_work)
            shutil.rmtree(fresh, ignore_errors=True)

    def list(self, name: str | None = None) -> Sequence[Version]:
        """The versions of a model, or of all, oldest first."""
        homes = sorted(self.root.glob("*/")) if name is None else [self._home(name)]
        found = []
        for home in homes:
            aliases = self._aliases(home.name)
            for number in _numbers(home):
                names = tuple(alias for alias, held in aliases.items() if held["version"] == number)
                found.append(Version(home.name, number, home / str(number), names))
        return found

    def find(self, reference: str) -> Version:
        """The version that "name@3" or "name@production" means.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: if the reference is not of that form.
        """
        name, at, which = reference.partition("@")
        if not at or not which:
            raise ValueError(f"'{reference}' names no version: write name@number or name@alias, such as {name}@1")
        versions = {version.number: version for version in self.list(name)}
        if not versions:
            names = ", ".join(sorted({each.name for each in self.list()})) or "none yet"
            raise FileNotFoundError(f"there is no model '{name}' in the registry '{self.root}'; there is {names}")
        number = int(which) if which.isdecimal() else self._aliases(name).get(which, {}).get("version")
        if number not in versions:
            aliases = ", ".join(f"{name}@{each}" for each in [*self._aliases(name), *versions])
            raise FileNotFoundError(f"there is no {reference} in the registry '{self.root}'; there is {aliases}")
        return versions[number]

    def resolve(self, reference: str) -> Path:
        """The folder of the version that "name@3" or "name@production" means now; cheap enough to be polled.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: if the reference is not of that form.
        """
        return self.find(reference).folder

    def candidate(self, reference: str) -> Candidate:
        """A version as the gate takes it.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: if a file of it is damaged.
        """
        version = self.find(reference)
        card = version.folder / "card.md"
        return Candidate(
            version.label,
            version.folder,
            parsed(version.folder / "results.json"),
            card.read_text(encoding="utf-8") if card.is_file() else "",
        )

    def champion(self, name: str, alias: str = PRODUCTION) -> Candidate | None:
        """Who holds an alias; None if nobody does."""
        held = self._aliases(name).get(alias)
        return self.candidate(f"{name}@{held['version']}") if held else None

    def promote(self, name: str, number: int, decision: Decision, alias: str = PRODUCTION) -> Path:
        """Points an alias at a version, if the gate let it pass and compared it with who holds the alias now.

        Args:
            name: of the model.
            number: of the version.
            decision: of the gate, or a person's; it is kept beside the versions, a refusal too.
            alias: made if need be.

        Returns:
            Where the decision is kept.

        Raises:
            Moved: if another version has taken the alias since the gate compared with it.
            ValueError: if the gate refused, the version is damaged, or the alias is not fit.
            FileNotFoundError: if there is no such version.
        """
        if not re.fullmatch(r"[a-z][a-z0-9-]*", alias):
            raise ValueError(f"an alias is small letters, digits and dashes, such as {PRODUCTION}; got '{alias}'")
        version = self.find(f"{name}@{number}")
        kept = self._keep(version, alias, decision)
        if not decision.passed:
            raise ValueError(f"{version.label} is refused as {name}@{alias}: {'; '.join(decision.reasons)}")
        self._require_whole(version)
        with self._locked(name):
            aliases = self._aliases(name)
            held = aliases.get(alias)
            champion = f"{name}@{held['version']}" if held else None
            if champion == version.label:
                return kept
            if not decision.by_hand and champion != decision.champion:
                raise Moved(
                    f"{name}@{alias} is {champion or 'nobody'} now, but the gate compared {decision.candidate} with "
                    f"{decision.champion or 'nobody'}: ask it again"
                )
            before = [*held["before"], held["version"]] if held else []
            self._point(name, aliases, alias, number, before, f"{DECISIONS}/{kept.name}")
        return kept

    def rollback(self, name: str, alias: str = PRODUCTION) -> int:
        """Points an alias at the version that held it before; again, at the one before that.

        Raises:
            ValueError: if no other version held it before, or that one is damaged.
        """
        with self._locked(name):
            aliases = self._aliases(name)
            held = aliases.get(alias, {"before": []})
            if not held["before"]:
                raise ValueError(f"{name}@{alias} cannot go back: no version held it before")
            *before, number = held["before"]
            self._require_whole(self.find(f"{name}@{number}"))
            self._point(name, aliases, alias, number, before, f"rollback from {held['version']}")
        return int(number)

    def history(self, name: str, alias: str = PRODUCTION) -> Sequence[Mapping[str, Any]]:
        """Every move of an alias: version, time, and why."""
        moves: Sequence[Mapping[str, Any]] = self._aliases(name).get(alias, {"moves": []})["moves"]
        return moves

    def verify(self, reference: str | None = None) -> Sequence[str]:
        """What is wrong, one sentence each; empty if every byte is as it was registered.

        Args:
            reference: "name@3", "name@alias" or "name"; None is everything.
        """
        if reference is not None and "@" in reference:
            return _said([self.find(reference)])
        versions = self.list(reference)
        if reference is not None and not versions:
            self.find(f"{reference}@1")  # says that there is no such model
        wrong = _said(versions)
        for name in sorted({version.name for version in versions}):
            numbers = _numbers(self._home(name))
            for alias, held in self._aliases(name).items():
                lost = [number for number in [*held["before"], held["version"]] if number not in numbers]
                wrong += [f"{name}@{alias} holds or held version {number}, which is gone" for number in lost]
        return wrong

    def _home(self, name: str) -> Path:
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
            raise ValueError(f"a model's name is small letters, digits, dots and dashes, such as faces; got '{name}'")
        return self.root / name

    def _locked(self, name: str) -> FileLock:
        return FileLock(self._home(name) / ".lock")

    def _last(self, name: str) -> int:
        """The highest number ever given that anything still remembers: numbers of deleted versions are not reused."""
        home = self._home(name)
        moved = [move["version"] for held in self._aliases(name).values() for move in held["moves"]]
        judged = [path.name.partition("-")[0] for path in (home / DECISIONS).glob("*-*.json")]
        return max([0, *_numbers(home), *(int(number) for number in (*moved, *judged))])

    def _aliases(self, name: str) -> dict[str, Any]:
        path = self._home(name) / ALIASES
        aliases = dict(parsed(path)) if path.is_file() else {}
        for alias, held in aliases.items():
            if not held["moves"] or held["moves"][-1]["version"] != held["version"]:
                raise ValueError(f"'{path}' is damaged: {alias} is not where it last went")
        return aliases

    def _point(
        self, name: str, aliases: dict[str, Any], alias: str, number: int, before: Sequence[int], why: str
    ) -> None:
        """Moves an alias; the caller holds the lock."""
        moves = [*self.history(name, alias), {"version": number, "at": now(), "why": why}]
        aliases[alias] = {"version": number, "before": list(before), "moves": moves}
        with replacing(self._home(name) / ALIASES) as fresh:
            fresh.write_text(json.dumps(aliases, indent=2) + "\n")

    def _keep(self, version: Version, alias: str, decision: Decision) -> Path:
        facts = {"version": version.number, "alias": alias, **decision.facts()}
        text = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
        short = hashlib.sha256(text.encode()).hexdigest()[:8]
        path = self._home(version.name) / DECISIONS / f"{version.number}-{alias}-{short}.json"
        with replacing(path) as fresh:
            fresh.write_text(text, encoding="utf-8")
        return path

    def _require_whole(self, version: Version) -> None:
        if wrong := _said([version]):
            raise ValueError(f"{version.label} is damaged and stays where it is: {'; '.join(wrong)}")


def _said(versions: Sequence[Version]) -> list[str]:
    return [f"{version.label}: {fault}" for version in versions for fault in faults(version.folder)]


def _numbers(home: Path) -> list[int]:
    return sorted(int(path.name) for path in home.glob("[1-9]*/") if path.name.isdecimal())


def _sweep(home: Path) -> None:
    """Clears away what writers left behind that were killed long ago; a clock that jumped makes no writer dead."""
    for path in home.glob(f"{UNFINISHED}*/"):
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                if time.time() - path.stat().st_mtime > ABANDONED and _lock(descriptor):
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Takes a folder's lock for as long as its descriptor is open; whether nobody has it, or there are no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # this file system has none
    return True
