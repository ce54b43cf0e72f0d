"""How figures came about, in one form and with one name: they compare where that is the same."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

ACCIDENTAL = frozenset(
    ("inpainter", "trained_on", "known_pixels_changed", "batch_size", "device", "devices", "threads", "versions")
)
"""What an evaluation notes that does not bear on its figures, or is the model's own."""


def essential(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Those of an evaluation's facts that must agree before two figures may be compared."""
    return {key: value for key, value in facts.items() if key not in ACCIDENTAL}


def canonical(facts: Mapping[str, Any]) -> str:
    """The essential facts as JSON that is the same wherever it is written: keys in order, no blanks, ASCII.

    Example:
        >>> canonical({"seed": 0, "n": 8, "device": "cpu"})
        '{"n":8,"seed":0}'
    """
    return json.dumps(essential(facts), sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(facts: Mapping[str, Any]) -> str:
    """The sha256 of `canonical`, the name of a protocol."""
    return hashlib.sha256(canonical(facts).encode()).hexdigest()


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The essential facts in which two evaluations differ, each as ``what this against that``.

    Example:
        >>> differences({"n": 8, "seed": 0, "threads": 1}, {"n": 9, "seed": 0, "threads": 2})
        ['n 8 against 9']
    """
    one, other = essential(one), essential(other)
    keys = [key for key in sorted({*one, *other}) if one.get(key) != other.get(key)]
    return [f"{key} {one.get(key)} against {other.get(key)}" for key in keys]
