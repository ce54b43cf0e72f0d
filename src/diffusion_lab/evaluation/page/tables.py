"""The tables of a report's page: figures, differences on the same pictures, and differences between groups of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from diffusion_lab.evaluation.page.entries import Entry, by_kind, caption, known, told
from diffusion_lab.evaluation.report import Report
from diffusion_lab.evaluation.tables import MORE_IS_BETTER, caution
from diffusion_lab.evaluation.uncertainty import uncertainties
from diffusion_lab.pages import Html, cell, heading, section, sortable, tag
from diffusion_lab.pages.plots import spot


def figures(entries: Sequence[Entry], reports: Iterable[Report]) -> Html:
    """All figures of each kind, with half of their intervals, and the notes that a reader needs."""
    keys = known(entry.row for entry in entries)
    head = [_first()]
    for key in keys:
        more = MORE_IS_BETTER.get(key)
        head.append(heading(caption(key)[0], None if more is None else "high" if more else "low", key))
    bodies = [
        (kind, [tag("tr", each.marks, _who(each), *(_value(each, key, rivals) for key in keys)) for each in rivals])
        for kind, rivals in by_kind(entries).items()
    ]
    table = sortable("Figures", head, bodies)
    notes = dict.fromkeys(note for report in reports for note in report.notes())
    return section("Figures", [*notes], table, attributes={"class": "figures"})


def against(entries: Sequence[Entry], first: str, run: str) -> Html | None:
    """How the methods of a run differ from its first one, in pairs; None if there is one only."""
    return _differences(
        f"Against {first}" + (f" ({run})" if run else ""), [each for each in entries if each.run == run]
    )


def between(runs: Mapping[str, Report]) -> Html:
    """How every run differs from the first, method by method."""
    first = next(iter(runs))
    entries = []
    for colour, method in enumerate(dict.fromkeys(method for report in runs.values() for method in report.methods)):
        same = [
            {**each, "method": label}
            for label, report in runs.items()
            for each in report.pictures
            if each["method"] == method
        ]
        for found in uncertainties(same, MORE_IS_BETTER):
            if found["against"] == first:
                entries.append(Entry(found["method"], {"method": method, "mask": found["mask"]}, found, colour))
    said = (
        f"Each run against {first}: the same method on the same pictures. What the intervals do not say is how far "
        "another training of the same would have come out."
    )
    none = section("Between the runs", [f"No method of {first} is in another run: there is nothing to pair."])
    return _differences("Between the runs", entries, said) or none


def attributes(runs: Mapping[str, Report], entries: Sequence[Entry]) -> Html | None:
    """How the figures of pictures with each attribute differ from those of all others; None without labels."""
    found = [(label, each) for label, report in runs.items() for each in report.attributes]
    if not found:
        return None
    colours = {(entry.run, entry.row["method"]): entry.colour for entry in entries}
    keys = known(each["figures"] for _, each in found)
    head = [tag("th", {"scope": "col"}, "Attribute"), tag("th", {"scope": "col", "class": "text"}, "Method")]
    head += [heading("with"), heading("without"), *(heading(caption(key)[0], None, key) for key in keys)]
    rows = []
    for label, each in found:
        who = tag("td", None, spot(colours[label, each["method"]]), each["method"], *_of(label))
        counts = (cell(each[name]) for name in ("with", "without"))
        marks = {"data-method": each["method"], "data-run": label or None}
        values = (_apart(each["figures"].get(key), key) for key in keys)
        rows.append(tag("tr", marks, tag("th", {"scope": "row"}, each["attribute"]), who, *counts, *values))
    note = caution([each for _, each in found])
    table = sortable("By attribute", head, [(None, rows)])
    return section("By attribute", [note], table, attributes={"class": "attributes"})


def _apart(found: Mapping[str, Any] | None, key: str) -> Html:
    """A difference between two groups, with the figure of either."""
    if found is None:
        return cell(None)
    ours, theirs = (told(found[name], key) for name in ("with", "without"))
    return _between(found["difference"], found, key, tag("small", None, f"{ours} against {theirs}"))


def _differences(title: str, entries: Sequence[Entry], note: str = "") -> Html | None:
    """A section of what the entries say of differences."""
    entries = [entry for entry in entries if entry.uncertain["differences"]]
    keys = known(entry.uncertain["differences"] for entry in entries)
    if not keys:
        return None
    head = [_first(), *(heading(caption(key)[0], None, key) for key in keys)]
    bodies = [
        (kind, [tag("tr", entry.marks, _who(entry), *(_difference(entry, key) for key in keys)) for entry in rows])
        for kind, rows in by_kind(entries).items()
    ]
    said = "Differences on the same pictures with their 95 % intervals, drawn in pairs; inconclusive: it holds 0."
    return section(title, [text for text in (said, note) if text], sortable(title, head, bodies))


def _value(entry: Entry, key: str, rivals: Sequence[Entry]) -> Html:
    """A figure with half of its interval; the best of its kind stands out."""
    value, more = entry.row.get(key), MORE_IS_BETTER.get(key)
    if value is None:
        return cell(None)
    values = [other.row[key] for other in rivals if other.row.get(key) is not None]
    best = more is not None and len({*values}) > 1 and value == (max if more else min)(values)
    ends = entry.uncertain["intervals"].get(key)
    said = entry.uncertain["differences"].get(key, {}).get("verdict")
    about = f"±{told((ends[1] - ends[0]) / 2, key)}" if ends else ""
    small = [tag("small", None, about + (" ≈" if said == "inconclusive" else ""))] if about else []
    return cell(value, told(value, key), *small, best=best)


def _difference(entry: Entry, key: str) -> Html:
    found = entry.uncertain["differences"].get(key)
    if found is None:
        return cell(None)
    return _between(found["mean"], found, key)


def _between(difference: float, found: Mapping[str, Any], key: str, *said: Html) -> Html:
    """A difference with its interval and verdict."""
    mean, low, high = (told(value, key, "+") for value in (difference, *found["interval"]))
    verdict = tag("span", {"class": f"verdict {found['verdict']}"}, found["verdict"])
    return cell(difference, mean, tag("small", None, f"{low} to {high}"), *said, verdict)


def _first() -> Html:
    return tag("th", {"scope": "col"}, "Method")


def _who(entry: Entry) -> Html:
    return tag("th", {"scope": "row"}, spot(entry.colour), entry.row["method"], *_of(entry.run))


def _of(run: str) -> list[Html]:
    return [tag("small", None, run)] if run else []
