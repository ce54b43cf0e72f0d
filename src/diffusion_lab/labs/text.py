"""The labs' text: percent scripts with the prose of both languages side by side, and the notebooks made from them.

A cell starts with ``# %%`` (code, the same in both languages), ``# %% [markdown] lang="en"`` or ``lang="vi"``. A code
cell of which a student writes a part is marked ``exercise="1.3"``: what the student gets of its last function is the
docstring and ``...``.
"""

import ast
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LANGUAGES = ("en", "vi")
SOURCES = Path(__file__).parent / "source"
HEADER = re.compile(r'^# %%(?: \[markdown\] lang="(?P<language>en|vi)")?(?: exercise="(?P<exercise>\d\.\d+)")?$')


@dataclass(frozen=True)
class Cell:
    """A part of a lab.

    Args:
        source: code or Markdown.
        language: of the prose; None for code.
        exercise: number of the one that it holds; None for none.
    """

    source: str
    language: str | None = None
    exercise: str | None = None


def labs() -> list[Path]:
    """The sources, in order."""
    return sorted(SOURCES.glob("[0-9]_*.py"))


def read(text: str) -> list[Cell]:
    r"""The cells of a source.

    Raises:
        ValueError: for a line that begins like a cell and is none.

    Example:
        >>> read('# %% exercise="1.1"\nx = 1\n')
        [Cell(source='x = 1', language=None, exercise='1.1')]
    """
    found: list[Cell] = []
    for part in re.split(r"^(?=# %%)", text, flags=re.MULTILINE)[1:]:
        head, _, body = part.partition("\n")
        header = HEADER.match(head)
        if header is None:
            raise ValueError(f'a cell begins with # %%, # %% [markdown] lang="en" or # %% exercise="1.3", not {head!r}')
        source, language = body.strip("\n"), header["language"]
        if language:
            source = source.removeprefix('r"""').removesuffix('"""').strip("\n")
        found.append(Cell(source, language, header["exercise"]))
    return found


def emptied(source: str) -> str:
    r"""An exercise as a student gets it: the body of its last function is gone, but for the docstring.

    Example:
        >>> print(emptied('def f(x):\n    "Twice x."\n    return 2 * x\n\ncheck("1.1", f)'))
        def f(x):
            "Twice x."
            ...
        <BLANKLINE>
        check("1.1", f)
    """
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    last = max(functions, key=lambda node: node.lineno)
    docstring = last.body[0]
    assert isinstance(docstring, ast.Expr), f"{last.name} has no docstring"
    assert docstring.end_lineno is not None
    assert last.end_lineno is not None
    lines = source.split("\n")
    return "\n".join([*lines[: docstring.end_lineno], " " * docstring.col_offset + "...", *lines[last.end_lineno :]])


def shown(cells: Sequence[Cell], language: str, solved: bool) -> list[Cell]:
    """The cells of one language, as a student gets them or with the solutions."""
    chosen = [cell for cell in cells if cell.language in (None, language)]
    return [
        Cell(
            (cell.source if solved or cell.exercise is None else emptied(cell.source)).replace(
                'LANGUAGE = "en"', f'LANGUAGE = "{language}"'
            ),
            cell.language,
            cell.exercise,
        )
        for cell in chosen
    ]


def notebook(cells: Sequence[Cell]) -> str:
    """A Jupyter notebook (format 4.5) without outputs."""
    made: list[dict[str, Any]] = []
    for place, cell in enumerate(cells):
        lines = cell.source.splitlines(keepends=True)
        common = {"id": f"cell-{place}", "metadata": {}, "source": lines}
        code = {"cell_type": "code", "execution_count": None, "outputs": [], **common}
        made.append({"cell_type": "markdown", **common} if cell.language else code)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    whole = {"cells": made, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, ensure_ascii=False, indent=1) + "\n"


def script(cells: Sequence[Cell]) -> str:
    """A percent script of one language, which editors and jupytext open as a notebook."""
    parts = [
        f'# %% [markdown]\nr"""\n{cell.source}\n"""\n' if cell.language else f"# %%\n{cell.source}\n" for cell in cells
    ]
    return "\n".join(parts)


def written(folder: Path, language: str, solved: bool, suffix: str = ".ipynb", replace: bool = False) -> list[Path]:
    """Writes the labs of one language into a folder.

    Args:
        folder: is made if it is not there.
        language: "en" or "vi".
        solved: with the solutions.
        suffix: ".ipynb", or ".py" for percent scripts.
        replace: files that are there already.

    Raises:
        FileExistsError: if one is there: it may hold a student's work.
    """
    form = {".ipynb": notebook, ".py": script}[suffix]
    paths = [folder / f"{lab.stem}{suffix}" for lab in labs()]
    for path in paths:
        if path.exists() and not replace:
            raise FileExistsError(f"'{path}' is there already: choose another folder, or move it away")
    folder.mkdir(parents=True, exist_ok=True)
    for lab, path in zip(labs(), paths, strict=True):
        cells = shown(read(lab.read_text(encoding="utf-8")), language, solved)
        path.write_text(form(cells), encoding="utf-8")
    return paths
