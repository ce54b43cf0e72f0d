"""results.json, read again: results.schema.json says what stands in it, and nothing else is taken."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from diffusion_lab.evaluation.report import Report
from diffusion_lab.files import content
from diffusion_lab.protocol import digest

SCHEMA: Mapping[str, Any] = json.loads(Path(__file__).with_name("results.schema.json").read_text(encoding="utf-8"))
"""JSON Schema, draft 2020-12; `mistakes` knows the words that occur in it."""

_SHOWN = 40  # letters of a value in a sentence


def read(path: Path) -> Report:
    """A report without pictures, of a results.json or of the folder that holds it.

    ValueError, in a sentence that names the file, for one that is not there, that evaluate.py did not write, or that
    was changed since.
    """
    path = path / "results.json" if path.is_dir() else path
    try:
        found = json.loads(content(path), parse_constant=_number, parse_float=_number, parse_int=_number)
    except OSError as error:
        raise ValueError(f"'{path}' cannot be read ({error}): name a results.json or its folder") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"'{path}' is no JSON ({error}): name the results.json of evaluate.py") from None
    mistake = next(mistakes(found), None) or _contradiction(found)
    if mistake:
        raise ValueError(f"'{path}' is not what evaluate.py writes: {mistake}; evaluate again")
    return Report(
        found["rows"],
        found["protocol"],
        [],
        list(dict.fromkeys(row["method"] for row in found["rows"])),
        found["pictures"],
        found["uncertainty"],
        found["areas"],
        recipe=found.get("recipe"),
        attributes=found.get("attributes", ()),
    )


def mistakes(value: object, schema: Mapping[str, Any] = SCHEMA, name: str = "it") -> Iterator[str]:
    """What is wrong with a value, a sentence each.

    Args:
        value: as JSON has it.
        schema: what it shall be.
        name: of the value.

    Example:
        >>> [*mistakes({"n": 0}, {"properties": {"n": {"type": "integer", "minimum": 1}}})]
        ['n is 0, less than 1']
    """
    if "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    said = json.dumps(value, ensure_ascii=False)
    said = said if len(said) <= _SHOWN else f"{said[:_SHOWN]}…"
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_KINDS[kind](value) for kind in kinds):
        yield f"{name} is {said} and no {' or '.join(kinds)}"
        return
    if value not in schema.get("enum", [value]):
        yield f"{name} is {said} and none of {', '.join(schema['enum'])}"
    if isinstance(value, int | float) and value < schema.get("minimum", value):
        yield f"{name} is {said}, less than {schema['minimum']}"
    if isinstance(value, str):
        if not re.search(schema.get("pattern", ""), value) or len(value) < schema.get("minLength", 0):
            yield f"{name} is {said}, which cannot be"
    elif isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            yield f"{name} has {len(value)} entries"
        for number, entry in enumerate(value):
            yield from mistakes(entry, schema.get("items", {}), f"{name}[{number}]")
    elif isinstance(value, dict):
        yield from (f"{name} has no {key}" for key in schema.get("required", []) if key not in value)
        known, rest = schema.get("properties", {}), schema.get("additionalProperties", {})
        for key, entry in value.items():
            yield from mistakes(entry, known.get(key, rest), f"{name}.{key}".removeprefix("it."))


def _contradiction(found: Mapping[str, Any]) -> str | None:
    """What no schema sees: parts that do not fit each other."""
    if found["protocol_sha256"] != digest(found["protocol"]):
        return "protocol_sha256 is not that of its protocol"
    rows = [(row["mask"], row["method"]) for row in found["rows"]]
    if len(set(rows)) < len(rows):
        return "two rows have the same mask and method"
    for part in ("uncertainty", "pictures"):
        if [(entry["mask"], entry["method"]) for entry in found[part]] != rows:
            return f"the masks and methods of {part} are not those of rows"
    for row, each in zip(found["rows"], found["pictures"], strict=True):
        for key, values in each.items():
            if key not in ("mask", "method") and len(values) != row["n"]:
                return f"{row['method']} has {len(values)} values of {key} and {row['n']} pictures"
    return None


def _number(text: str) -> float:
    """Of its letters; JSON knows no NaN, and nothing that a double cannot hold is a figure."""
    if not math.isfinite(float(text)):
        raise ValueError(f"{text[:_SHOWN]} is no number in it")
    return int(text) if text.lstrip("-").isdigit() else float(text)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_integer(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1


_KINDS: Mapping[str, Callable[[object], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": _is_number,
    "integer": _is_integer,
}
