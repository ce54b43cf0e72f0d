"""The drawings of a report's page: quality over network calls, and figures by the area of the hole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from diffusion_lab.evaluation.page.entries import Entry, by_kind, caption, known
from diffusion_lab.evaluation.report import Report
from diffusion_lab.pages import Html, section, tag
from diffusion_lab.pages.plots import Bar, Dot, bars, dots

_DRAWN = ("lpips", "fid")  # over network calls


def calls(entries: Sequence[Entry]) -> Html | None:
    """Quality over network calls, a drawing for each kind and figure."""
    keys = [key for key in _DRAWN if key in known(entry.row for entry in entries)]
    drawn = []
    for kind, rows in by_kind(entries).items():
        for key in keys:
            seen = [entry for entry in rows if entry.row.get(key) is not None]
            points = [
                Dot(
                    entry.name,
                    entry.row["network_calls"],
                    entry.row[key],
                    entry.uncertain["intervals"].get(key),
                    entry.colour,
                    entry.marks,
                )
                for entry in seen
            ]
            if points:
                text, form = caption(key)
                drawn.append(tag("div", {"data-kind": kind}, dots(text, kind, points, "network calls", form)))
    note = "Each dot with its 95 % interval; what needs no network stands at 0."
    plots = tag("div", {"class": "plots"}, *drawn)
    return section("Quality and network calls", [note], plots) if drawn else None


def areas(runs: Mapping[str, Report], entries: Sequence[Entry]) -> Html | None:
    """Figures by the area of the hole, a drawing for each."""
    colours = {(entry.run, entry.row["method"]): entry.colour for entry in entries}
    found = [(label, entry) for label, report in runs.items() for entry in report.areas]
    keys = [key for key in known((entry for _, entry in found), ("from", "to", "intervals")) if key in found[0][1]]
    drawn = []
    for key in keys:
        text, form = caption(key)
        groups = []
        for low, high in sorted({(entry["from"], entry["to"]) for _, entry in found}):
            inside = [(label, entry) for label, entry in found if entry["from"] == low and key in entry]
            group = [
                Bar(
                    " ".join(filter(None, (label, entry["method"]))),
                    entry[key],
                    entry["intervals"].get(key),
                    colours[label, entry["method"]],
                    {"data-method": entry["method"], "data-run": label or None},
                )
                for label, entry in inside
            ]
            holes = inside[0][1]["n"] if inside else 0
            groups.append((f"{low:.0%} to {high:.0%} of the picture, {holes} holes", group))
        drawn.append(bars(text, "", groups, form))
    note = "All kinds together, in tenths of the picture, with 95 % intervals."
    plots = tag("div", {"class": "plots"}, *drawn)
    return section("By the area of the hole", [note], plots) if drawn else None
