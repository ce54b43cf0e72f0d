"""The rows of reports that share a protocol, with all that is known of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from diffusion_lab.evaluation.report import Report
from diffusion_lab.evaluation.tables import HEADINGS
from diffusion_lab.pages import Attributes

_NO_FIGURES = ("method", "mask", "n")
_COSTS = ("seconds_per_image", "network_calls")


class Entry(NamedTuple):
    """A row of a report, with all that is known of it.

    Args:
        run: label of its report; empty if there is one only.
        row: its figures.
        uncertain: intervals of them, and differences from the report's first method.
        colour: number of its colour.
    """

    run: str
    row: Mapping[str, Any]
    uncertain: Mapping[str, Any]
    colour: int

    @property
    def name(self) -> str:
        return " ".join(filter(None, (self.run, self.row["method"])))

    @property
    def marks(self) -> Attributes:
        """By which it is chosen to be seen."""
        return {"data-method": self.row["method"], "data-run": self.run or None}


def entries_of(runs: Mapping[str, Report]) -> list[Entry]:
    """All rows of all runs; a method of a run has one colour."""
    colours = {
        name: i for i, name in enumerate((label, method) for label, run in runs.items() for method in run.methods)
    }
    return [
        Entry(label, row, uncertain, colours[label, row["method"]])
        for label, report in runs.items()
        for row, uncertain in zip(report.rows, report.uncertainty, strict=True)
    ]


def by_kind(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """The entries of each kind of question."""
    kinds = dict.fromkeys(entry.row["mask"] for entry in entries)
    return {kind: [entry for entry in entries if entry.row["mask"] == kind] for kind in kinds}


def known(rows: Iterable[Mapping[str, Any]], besides: Sequence[str] = ()) -> list[str]:
    """The figures that some row has: those of today's tables in their order, then all others, and the costs last."""
    named = (*_NO_FIGURES, *besides)
    seen = dict.fromkeys(
        key for row in rows for key, value in row.items() if key not in named and not isinstance(value, str | None)
    )
    ordered = [key for key in HEADINGS if key in seen and key not in _COSTS]
    return [*ordered, *(key for key in seen if key not in HEADINGS), *(key for key in _COSTS if key in seen)]


def told(value: float, key: str, sign: str = "") -> str:
    """A figure in its format, without a sign before nothing."""
    form = caption(key)[1]
    return format(value, f"{sign}{form if form.endswith('d') else f'z{form}'}")


def caption(key: str) -> tuple[str, str]:
    """How a figure is called, and its format; one that no table knows has its own name."""
    return HEADINGS.get(key, (key.replace("_", " "), ".4g"))
