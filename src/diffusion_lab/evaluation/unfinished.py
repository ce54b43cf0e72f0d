"""What an evaluation has measured before its report is complete: there a second one of the same goes on."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from diffusion_lab.files import replacing


class Kept(NamedTuple):
    """A measurement on disk: tensors on the CPU, and facts as JSON has them."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


class Unfinished:
    """Measurements by name, each a file that says which evaluation it is of; nothing of another one is ever taken.

    A row is one file when it is finished, and until then one for each of its batches.

    Args:
        folder: where they are; None keeps nothing.
        evaluation: all that figures hang on to the last digit; a difference in any of it is another evaluation.
    """

    def __init__(self, folder: Path | None, evaluation: Mapping[str, Any]) -> None:
        self._folder = folder
        self._evaluation = hashlib.sha256(json.dumps(evaluation, sort_keys=True).encode()).hexdigest()

    def row(self, name: str) -> Kept | None:
        """A finished row; None if it is not."""
        return self._read(name)

    def batch(self, row: str, indices: Tensor, measure: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """What is measured of the pictures of those indices, on the CPU: from the disk, or now and then kept there."""
        name = f"{row}/{int(indices[0])}"
        if kept := self._read(name):
            return kept.tensors
        measured = {key: x.detach().cpu().contiguous() for key, x in measure().items()}
        self._write(name, Kept(measured, {"pictures": len(indices)}))
        return measured

    def finish(self, name: str, row: Kept | None = None) -> None:
        """Keep a finished row, if it is to be kept, in place of its batches; call it on one rank only."""
        if row is not None:
            self._write(name, row)
        if self._folder:
            shutil.rmtree(self._folder / name, ignore_errors=True)

    def pictures(self, row: str) -> int:
        """Of how many pictures a row, finished or not, is measured."""
        if self._folder is None:
            return 0
        finished = self._read(row)
        names = [f"{row}/{file.stem}" for file in (self._folder / row).glob("*.safetensors")]
        parts = [finished] if finished else [self._read(name) for name in names]
        return sum(part.facts["pictures"] for part in parts if part)

    def _read(self, name: str) -> Kept | None:
        if self._folder is None:
            return None
        try:
            with safe_open(self._folder / f"{name}.safetensors", "pt") as file:
                said = file.metadata() or {}
                if said.get("evaluation") != self._evaluation:
                    return None
                return Kept({key: file.get_tensor(key) for key in file.keys()}, json.loads(said["facts"]))  # noqa: SIM118
        except (OSError, SafetensorError):  # not measured yet, or damaged: it is measured now
            return None

    def _write(self, name: str, kept: Kept) -> None:
        if self._folder is None:
            return
        said = {"evaluation": self._evaluation, "facts": json.dumps(kept.facts)}
        with replacing(self._folder / f"{name}.safetensors") as fresh:
            save_file(kept.tensors, fresh, said)


def weights_sha256(model: nn.Module) -> str:
    """Of a model's state: its names, kinds, shapes and bytes."""
    sha256 = hashlib.sha256()
    for name, x in sorted(model.state_dict().items()):
        sha256.update(f"{name} {x.dtype} {list(x.shape)}".encode())
        sha256.update(x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return sha256.hexdigest()
