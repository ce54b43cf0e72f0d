"""Where a model's networks with convolutions in 8-bit integers are kept: one ONNX file a stage, in the user's cache.

Their name says all that they depend on, so that what has changed is not found; `quantising` makes them.
"""

import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from diffusion_lab.files import cache, replacing, sha256
from diffusion_lab.networks.export import identity

MAKERS = ("diffusion-lab", "torch", "onnx", "onnxscript", "onnxruntime")
"""Packages that files of other versions would come out of differently."""


def named(folder: Path) -> Path:
    """The list of a model's files, which lies beside them and is written last.

    Args:
        folder: of the model.

    Raises:
        ValueError: if what makes them is not installed, or the user has no cache.
    """
    try:
        versions = {name: version(name) for name in MAKERS}
    except PackageNotFoundError:
        raise ValueError("ONNX needs packages that are not installed: uv sync --extra onnx") from None
    made_by = Path(__file__).with_name("quantising.py").read_bytes()
    facts = {"of": identity(folder), "by": versions, "how": hashlib.sha256(made_by).hexdigest()}
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    try:
        return cache() / f"int8-{key}.json"
    except RuntimeError as error:
        raise ValueError(
            f"8-bit files are kept in the user's cache ({error}): set XDG_CACHE_HOME to a folder"
        ) from None


def of_stage(listed: Path, stage: int) -> Path:
    """The file of a stage, beside the list."""
    return listed.with_name(f"{listed.stem}-{stage}.onnx")


def kept(folder: Path) -> list[Path] | None:
    """A model's files, the first stage's first; None if they were not made yet, or are damaged.

    Raises:
        ValueError: see `named`.
    """
    listed = named(folder)
    try:
        sums = json.loads(listed.read_text())
        files = [of_stage(listed, stage) for stage in range(len(sums))]
        return files if [sha256(file) for file in files] == sums else None
    except (OSError, ValueError, TypeError):
        return None


def keep(folder: Path, made: Sequence[Path]) -> None:
    """Puts new files where `kept` looks: all of them, or none that it would find.

    Args:
        folder: of the model.
        made: one a stage.

    Raises:
        ValueError: see `named`.
        OSError: if they cannot be written.
    """
    listed = named(folder)
    for stage, file in enumerate(made):
        with replacing(of_stage(listed, stage)) as fresh:
            fresh.write_bytes(file.read_bytes())
    with replacing(listed) as fresh:
        fresh.write_text(json.dumps([sha256(file) for file in made]))
