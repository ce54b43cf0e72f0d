"""The reference solutions, as a student's script defines them."""

from functools import cache
from pathlib import Path
from typing import Any

from diffusion_lab.labs import student, text


def definitions(lab: str, folder: Path) -> dict[str, Any]:
    """Of a whole lab with its solutions."""
    path = folder / f"{lab}_solved.py"
    path.write_text(_script(lab), encoding="utf-8")
    return student.definitions(path)


@cache
def _script(lab: str) -> str:
    (source,) = (path for path in text.labs() if path.stem.startswith(lab))
    return text.script(text.shown(text.read(source.read_text(encoding="utf-8")), "en", solved=True))
