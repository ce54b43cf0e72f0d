"""A student's notebook or script, and the functions that it defines.

Only imports, functions, classes and constants are run, so that checking one exercise trains and draws nothing; and of
them only what the exercise needs, so that it does not wait for the imports of others.
"""

import ast
import json
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any


def found(folder: Path, lab: str) -> Path | None:
    """The student's file of a lab, a notebook or a percent script: the one written last; None if there is none."""
    files = [path for path in folder.glob(f"{lab}_*") if path.suffix in (".ipynb", ".py")]
    return max(files, key=lambda path: path.stat().st_mtime, default=None)


def cells(path: Path) -> list[str]:
    """The code of a notebook or a script, cell by cell.

    Raises:
        ValueError: if it is no notebook.
    """
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return text.split("\n# %%")
    try:
        notebook = json.loads(text)
        sources = [cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"'{path}' is no notebook ({type(error).__name__}: {error})") from None
    return ["".join(source) for source in sources]


def kept(cell: str) -> Iterator[ast.stmt]:
    """What of a cell is run; a cell that Python cannot read defines nothing."""
    plain = "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in cell.split("\n"))
    try:
        statements = ast.parse(plain).body
    except SyntaxError:
        return
    for statement in statements:
        match statement:
            case ast.Import() | ast.ImportFrom() | ast.FunctionDef() | ast.ClassDef():
                yield statement
            case ast.Assign(value=ast.Constant()):
                yield statement


def binds(statement: ast.stmt) -> set[str]:
    """The names that a statement defines; "*" for an import of whatever a module has."""
    match statement:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            return {(alias.asname or alias.name).split(".")[0] for alias in names}
    return {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}


def needed(statements: Sequence[ast.stmt], wanted: Collection[str]) -> list[ast.stmt]:
    """Those that define these names, and what they use in turn; in order."""
    names, chosen = {"*", *wanted}, set[int]()
    while more := {i for i, one in enumerate(statements) if binds(one) & names} - chosen:
        chosen |= more
        names |= {node.id for i in more for node in ast.walk(statements[i]) if isinstance(node, ast.Name)}
    return [statements[i] for i in sorted(chosen)]


def definitions(path: Path, wanted: Collection[str] | None = None) -> dict[str, Any]:
    """What a student's file defines, by name; a definition that cannot be run is not there.

    Args:
        path: of the file.
        wanted: names that are asked for; None is all that it defines.
    """
    module = ModuleType("student")
    sys.modules["student"] = module  # dataclasses look their module up
    statements = [statement for cell in cells(path) for statement in kept(cell)]
    for statement in statements if wanted is None else needed(statements, wanted):
        try:
            exec(compile(ast.Module([statement], []), str(path), "exec"), module.__dict__)
        except Exception as error:
            print(f"{path.name}: {type(error).__name__}: {error}", file=sys.stderr)
    return vars(module)
