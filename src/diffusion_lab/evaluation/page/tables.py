"""The tables of a report's page: figures, and differences on the same pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from diffusion_lab.evaluation.page.entries import Entry, by_kind, caption, known, told
from diffusion_lab.evaluation.report import MORE_IS_BETTER, Report
from diffusion_lab.evaluation.uncertainty import uncertainties
from diffusion_lab.pages import Html, cell, heading, section, sortable, tag
from diffusion_lab.pages.plots import COLOURS

_SPOT = tag("circle", {"class": "dot", "cx": "5", "cy": "5", "r": "4"})


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
    mean, low, high = (told(value, key, "+") for value in (found["mean"], *found["interval"]))
    verdict = tag("span", {"class": f"verdict {found['verdict']}"}, found["verdict"])
    return cell(found["mean"], mean, tag("small", None, f"{low} to {high}"), verdict)


def _first() -> Html:
    return tag("th", {"scope": "col"}, "Method")


def _who(entry: Entry) -> Html:
    spot = tag(
        "svg", {"viewBox": "0 0 10 10", "class": f"spot k{entry.colour % COLOURS}", "aria-hidden": "true"}, _SPOT
    )
    run = [tag("small", None, entry.run)] if entry.run else []
    return tag("th", {"scope": "row"}, spot, entry.row["method"], *run)
