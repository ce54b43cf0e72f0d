"""What a version consists of: the sha256 of each of its files, in a manifest that guards itself too."""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusion_lab.files import sha256

MANIFEST = "manifest.json"


def digests(folder: Path) -> dict[str, str]:
    """The sha256 of every file but the manifest."""
    return {path.name: sha256(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST}


def seal(folder: Path, registered: str) -> None:
    """Writes the manifest of what is in a folder now, and when that was registered."""
    (folder / MANIFEST).write_text(_text(digests(folder), registered), encoding="utf-8")


def recorded(folder: Path) -> Mapping[str, str]:
    """What the manifest says of the files; nothing where it cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        files = parsed(folder / MANIFEST)["files"]
        if isinstance(files, Mapping):
            return files
    return {}


def faults(folder: Path) -> list[str]:
    """How a folder differs from its manifest, such as "card.md is missing"; nothing where it is as it was sealed."""
    try:
        text = (folder / MANIFEST).read_bytes()
        facts = json.loads(text)
        files, registered = dict(facts["files"]), str(facts["registered"])
    except FileNotFoundError:
        return [f"{MANIFEST} is missing"]
    except (ValueError, KeyError, TypeError):
        return [f"{MANIFEST} is damaged"]
    if text != _text(files, registered).encode():
        return [f"{MANIFEST} is damaged"]
    found = digests(folder)
    wrong = [f"{name} is missing" for name in files.keys() - found.keys()]
    wrong += [f"{name} was added" for name in found.keys() - files.keys()]
    wrong += [
        f"{name} is not what was registered" for name in files.keys() & found.keys() if files[name] != found[name]
    ]
    return sorted(wrong)


def parsed(path: Path) -> Mapping[str, Any]:
    """The JSON object that a file holds.

    Raises:
        ValueError: if it holds none.
    """
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"'{path}' is not JSON ({error}): the file is damaged") from None
    if not isinstance(facts, Mapping):
        raise ValueError(f"'{path}' is not a JSON object: the file is damaged")
    return facts


def _text(files: Mapping[str, str], registered: str) -> str:
    """The manifest, which ends with its own sum, so that no byte of it goes unguarded either."""
    facts = {"files": dict(files), "registered": registered}
    own = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    return json.dumps({**facts, "sha256": own}, indent=2) + "\n"
