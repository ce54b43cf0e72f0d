"""How far figures may be trusted: intervals, differences on the same pictures, and figures by the area of the hole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffusion_lab.bootstrap import contrasts, intervals, verdict

Each = Mapping[str, Any]
"""A row's figures of each picture: ``{"mask": ..., "method": ..., "hole_area": [...], "lpips": [...], ...}``."""

LEAST = 10  # pictures with an attribute, and without it, below which nothing is said of it
_BINS = 10  # of hole area


def uncertainties(pictures: Sequence[Each], more_is_better: Mapping[str, bool | None]) -> list[dict[str, Any]]:
    """A row's 95 % intervals, and how it differs from the first method of its kind, paired picture by picture.

    Args:
        pictures: of each row.
        more_is_better: by figure; None: neither.

    Returns:
        For each row ``{"mask", "method", "intervals": {figure: [low, high]}, "against": the first method or None,
        "differences": {figure: {"mean", "interval", "verdict"}}}``; nothing of a single picture.
    """
    found = []
    for kind in dict.fromkeys(each["mask"] for each in pictures):
        rows = [each for each in pictures if each["mask"] == kind]
        first = rows[0]
        entries: list[dict[str, Any]] = [
            {"mask": kind, "method": row["method"], "intervals": {}, "against": None, "differences": {}} for row in rows
        ]
        columns = [
            (entry, name, False, row) for entry, row in zip(entries, rows, strict=True) for name in _figures(row)
        ]
        columns += [(entry, name, True, row) for entry, name, _, row in columns if row is not first and name in first]
        values = [
            np.asarray(row[name], dtype=np.float64) - (np.asarray(first[name]) if apart else 0)
            for _, name, apart, row in columns
        ]
        # One call, so that all figures see the same draws.
        for (entry, name, apart, _), column, ends in zip(columns, values, _ends(np.stack(values, 1)), strict=False):
            if apart:
                low, high = ends
                said = verdict(low, high, more_is_better.get(name))
                entry["differences"][name] = {"mean": _short(column.mean()), "interval": ends, "verdict": said}
                entry["against"] = first["method"]
            else:
                entry["intervals"][name] = ends
        found += entries
    return found


def by_area(pictures: Sequence[Each], figures: Sequence[str]) -> list[dict[str, Any]]:
    """The figures of each method by the share of the picture that the hole takes, in tenths, over all kinds of holes.

    Of the intervals a picture is drawn with all the holes that it has in a bin.

    Args:
        pictures: of each row.
        figures: which; means over pictures.

    Returns:
        ``{"method", "from", "to", "n": holes, figure: mean, "intervals": {figure: [low, high]}}`` by method and bin.
    """
    found = []
    for method in dict.fromkeys(each["method"] for each in pictures):
        rows = [each for each in pictures if each["method"] == method]
        n = len(rows[0]["hole_area"])
        sums, counts = np.zeros((_BINS, n, len(figures))), np.zeros((_BINS, n))
        for row in rows:
            bins = np.minimum((np.asarray(row["hole_area"]) * _BINS + 1e-9).astype(int), _BINS - 1)
            sums[bins, np.arange(n)] += _columns(row, figures)
            counts[bins, np.arange(n)] += 1
        for number in range(_BINS):
            seen = counts[number] > 0
            if not seen.any():
                continue
            holes = counts[number].sum()
            entry = {"method": method, "from": number / _BINS, "to": (number + 1) / _BINS, "n": int(holes)}
            entry |= {name: _short(x) for name, x in zip(figures, sums[number].sum(axis=0) / holes, strict=True)}
            of = np.repeat(counts[number][:, None], len(figures), axis=1)
            ends = _ends(sums[number], of) if seen.sum() > 1 else []
            found.append({**entry, "intervals": dict(zip(figures, ends, strict=False))})
    return found


def by_attribute(
    pictures: Sequence[Each],
    labels: Mapping[str, NDArray[np.bool_]],
    figures: Sequence[str],
    more_is_better: Mapping[str, bool | None],
) -> list[dict[str, Any]]:
    """The figures of each method on pictures that have an attribute and on those that do not, over all kinds of holes.

    Of an attribute that fewer than 10 pictures have, or all but fewer than 10, nothing is said.

    Args:
        pictures: of each row.
        labels: ``(n,)`` of each attribute, which pictures have it.
        figures: which; means over pictures.
        more_is_better: by figure; None: neither.

    Returns:
        ``{"attribute", "method", "with": pictures, "without": pictures, "figures": {figure: {"with": mean, "without":
        mean, "difference", "interval": [low, high] of with - without, "verdict"}}}`` by attribute and method; the
        verdict is of the pictures with it.
    """
    methods = list(dict.fromkeys(each["method"] for each in pictures))
    each_method = [
        np.mean([_columns(row, figures) for row in pictures if row["method"] == method], axis=0) for method in methods
    ]
    enough = {
        name: np.asarray(has, dtype=bool) for name, has in labels.items() if LEAST <= np.sum(has) <= len(has) - LEAST
    }
    if not enough:
        return []
    members = np.stack([*enough.values()], axis=1)
    ends = contrasts(np.concatenate(each_method, axis=1), members)
    ends = ends.reshape(len(enough), len(methods), len(figures), 2)
    found = []
    for (attribute, has), of_attribute in zip(enough.items(), ends, strict=True):
        for method, values, of_method in zip(methods, each_method, of_attribute, strict=True):
            entry: dict[str, Any] = {"attribute": attribute, "method": method}
            entry |= {"with": int(has.sum()), "without": int((~has).sum()), "figures": {}}
            means = values[has].mean(axis=0), values[~has].mean(axis=0)
            for name, ours, theirs, (low, high) in zip(figures, *means, of_method, strict=True):
                entry["figures"][name] = {
                    "with": _short(ours),
                    "without": _short(theirs),
                    "difference": _short(ours - theirs),
                    "interval": [_short(low), _short(high)],
                    "verdict": verdict(low, high, more_is_better.get(name)),
                }
            found.append(entry)
    return found


def _figures(row: Each) -> list[str]:
    return [name for name in row if name not in ("mask", "method", "hole_area")]


def _columns(row: Each, names: Sequence[str]) -> NDArray[np.float64]:
    return np.stack([np.asarray(row[name], dtype=np.float64) for name in names], axis=1)


def _ends(values: NDArray[np.float64], counts: NDArray[np.float64] | None = None) -> list[list[float]]:
    if len(values) < 2:
        return []
    return [[_short(low), _short(high)] for low, high in intervals(values, counts=counts)]


def _short(value: float) -> float:
    return float(f"{value:.6g}")
