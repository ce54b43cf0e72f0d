"""report.html: the figures of one evaluation or of several, as one file to look at.

Figures of two protocols stand in different tables, and the page says in what the protocols differ. Runs of one protocol
share a table, and differ from the first one in pairs of the same pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from diffusion_lab.evaluation.page.looks import looks
from diffusion_lab.evaluation.report import HEADINGS, MORE_IS_BETTER, Report
from diffusion_lab.evaluation.uncertainty import uncertainties
from diffusion_lab.files import replacing
from diffusion_lab.pages import Attributes, Html, cell, chips, heading, page, sortable, tag
from diffusion_lab.pages.plots import COLOURS, Bar, Dot, bars, dots
from diffusion_lab.protocol import differences
from diffusion_lab.recipe import flat

HERE = Path(__file__).parent
_NO_FIGURES = ("method", "mask", "n")
_COSTS = ("seconds_per_image", "network_calls")
_DRAWN = ("lpips", "fid")  # over network calls
_HARDWARE = ("device", "devices", "threads", "batch_size", "versions")


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


def write(path: Path, runs: Mapping[str, Report]) -> None:
    """Write the page of one report or of several, by their labels, whole or not at all."""
    text = written(runs)
    with replacing(path) as fresh:
        fresh.write_text(text, encoding="utf-8")


def written(runs: Mapping[str, Report]) -> str:
    """The page as text, the same for the same reports."""
    protocols: dict[str, dict[str, Report]] = {}
    for label, report in runs.items():
        protocols.setdefault(report.protocol_sha256, {})[label] = report
    reports = [*runs.values()]
    first = reports[0]
    title = first.title() if len(runs) == 1 else f"{len(runs)} evaluations"
    body = [_bar(runs)]
    for together in protocols.values():
        named = together if len(runs) > 1 else {"": first}
        sections = _protocol(named)
        if len(protocols) == 1:
            body += sections
        else:
            head = tag("h2", None, f"Protocol {_short(next(iter(together.values())))}")
            body.append(tag("div", {"class": "protocol"}, head, _lead(", ".join(together)), *sections))
    lead = [_summary(report) for report in ([first] if len(runs) == 1 else [])]
    if len(runs) > 1:
        lead.append(_lead("; ".join(f"{label}: {report.title()}" for label, report in runs.items()) + "."))
    if len(protocols) > 1:
        lead.append(_warning([next(iter(together.items())) for together in protocols.values()]))
    return page(title, lead, body, [HERE / "report.css"], [HERE / "report.js"])


def _protocol(runs: Mapping[str, Report]) -> list[Html]:
    """The sections of reports of one protocol."""
    entries = _entries(runs)
    first = next(iter(runs.values()))
    found = [
        _figures(entries, first),
        *(_against(entries, f"Against {report.methods[0]}", label) for label, report in runs.items()),
        _between(runs) if len(runs) > 1 else None,
        _calls(entries),
        _areas(runs, entries),
        *(looks(report) for report in runs.values() if report.gallery),
        _facts("Protocol", first),
        *(_made(label, report) for label, report in runs.items()),
    ]
    return [section for section in found if section]


def _entries(runs: Mapping[str, Report]) -> list[Entry]:
    colours = {
        name: i for i, name in enumerate((label, method) for label, run in runs.items() for method in run.methods)
    }
    return [
        Entry(label, row, uncertain, colours[label, row["method"]])
        for label, report in runs.items()
        for row, uncertain in zip(report.rows, report.uncertainty, strict=True)
    ]


def _bar(runs: Mapping[str, Report]) -> Html:
    rows = [row for report in runs.values() for row in report.rows]
    filters = [
        ("kind", "Asked", [row["mask"] for row in rows]),
        ("method", "Methods", [row["method"] for row in rows]),
        ("run", "Runs", [*runs] if len(runs) > 1 else []),
    ]
    boxes = [
        chips(name, label, several) for name, label, values in filters if len(several := [*dict.fromkeys(values)]) > 1
    ]
    return tag("div", {"class": "bar"}, *boxes, tag("p", {"id": "seen", "class": "aside", "role": "status"}))


def _figures(entries: Sequence[Entry], report: Report) -> Html:
    figures = _known(entry.row for entry in entries)
    head = [_first("Method")]
    for key in figures:
        text, _ = _label(key)
        more = MORE_IS_BETTER.get(key)
        head.append(heading(text, None if more is None else "high" if more else "low", key))
    bodies = []
    for kind, rivals in _by_kind(entries).items():
        rows = []
        for entry in rivals:
            cells = [_value(entry, key, rivals) for key in figures]
            rows.append(tag("tr", entry.marks, _who(entry), *cells))
        bodies.append((kind, rows))
    notes = [tag("p", {"class": "aside"}, note) for note in report.notes()]
    table = sortable("Figures", head, bodies)
    return tag("section", {"class": "figures"}, tag("h2", None, "Figures"), *notes, table)


def _value(entry: Entry, key: str, rivals: Sequence[Entry]) -> Html:
    """A figure with half of its interval; the best of its kind stands out."""
    value, (_, form), more = entry.row.get(key), _label(key), MORE_IS_BETTER.get(key)
    if value is None:
        return cell(None)
    values = [other.row[key] for other in rivals if other.row.get(key) is not None]
    best = more is not None and len(values) > 1 and value == (max if more else min)(values)
    ends = entry.uncertain["intervals"].get(key)
    said = entry.uncertain["differences"].get(key, {}).get("verdict")
    about = f"±{(ends[1] - ends[0]) / 2:{form}}" if ends else ""
    small = [tag("small", None, about + (" ≈" if said == "inconclusive" else ""))] if about else []
    return cell(value, f"{value:{form}}", *small, best=best)


def _against(entries: Sequence[Entry], title: str, run: str, note: str = "") -> Html | None:
    """A section of differences in pairs, as the entries have them; None if there are none."""
    entries = [entry for entry in entries if entry.uncertain["differences"] and (not run or entry.run == run)]
    figures = _known(entry.uncertain["differences"] for entry in entries)
    if not figures:
        return None
    head = [_first("Method"), *(heading(_label(key)[0], None, key) for key in figures)]
    bodies = [
        (kind, [tag("tr", entry.marks, _who(entry), *(_difference(entry, key) for key in figures)) for entry in rows])
        for kind, rows in _by_kind(entries).items()
    ]
    said = "Differences on the same pictures with their 95 % intervals, drawn in pairs; inconclusive: it holds 0."
    notes = [tag("p", {"class": "aside"}, text) for text in (said, note) if text]
    where = f"{title} ({run})" if run and not note else title
    return tag("section", None, tag("h2", None, where), *notes, sortable(where, head, bodies))


def _difference(entry: Entry, key: str) -> Html:
    found, (_, form) = entry.uncertain["differences"].get(key), _label(key)
    if found is None:
        return cell(None)
    mean, low, high = (f"{value:+{form}}" for value in (found["mean"], *found["interval"]))
    verdict = tag("span", {"class": f"verdict {found['verdict']}"}, found["verdict"])
    return cell(found["mean"], mean, tag("small", None, f"{low} to {high}"), verdict)


def _between(runs: Mapping[str, Report]) -> Html | None:
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
    if not entries:
        return _said(
            "Between the runs", f"No method of {first} is in another run, so nothing can be compared in pairs."
        )
    note = (
        f"Each run against {first}, the same method on the same pictures. What the intervals do not say: how far another "
        "training of the same would have come out."
    )
    return _against(entries, "Between the runs", "", note)


def _calls(entries: Sequence[Entry]) -> Html | None:
    """Quality over network calls, a drawing for each kind and figure."""
    figures = [key for key in _DRAWN if key in _known(entry.row for entry in entries)]
    drawn = []
    for kind, rows in _by_kind(entries).items():
        for key in figures:
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
                text, form = _label(key)
                drawn.append(tag("div", {"data-kind": kind}, dots(text, kind, points, "network calls", form)))
    if not drawn:
        return None
    note = "Each dot with its 95 % interval; what needs no network stands at 0."
    return tag(
        "section",
        None,
        tag("h2", None, "Quality and network calls"),
        tag("p", {"class": "aside"}, note),
        tag("div", {"class": "plots"}, *drawn),
    )


def _areas(runs: Mapping[str, Report], entries: Sequence[Entry]) -> Html | None:
    """Figures by the area of the hole, a drawing for each."""
    colours = {(entry.run, entry.row["method"]): entry.colour for entry in entries}
    areas = [(label, entry) for label, report in runs.items() for entry in report.areas]
    figures = [key for key in _known((entry for _, entry in areas), ("from", "to", "intervals")) if key in areas[0][1]]
    drawn = []
    for key in figures:
        text, form = _label(key)
        groups = []
        for low, high in sorted({(entry["from"], entry["to"]) for _, entry in areas}):
            inside = [(label, entry) for label, entry in areas if entry["from"] == low and key in entry]
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
    if not drawn:
        return None
    note = "All kinds together, in tenths of the picture, with 95 % intervals."
    return tag(
        "section",
        None,
        tag("h2", None, "By the area of the hole"),
        tag("p", {"class": "aside"}, note),
        tag("div", {"class": "plots"}, *drawn),
    )


def _facts(title: str, report: Report) -> Html:
    facts = {key: value for key, value in report.protocol.items() if key not in (*_HARDWARE, "inpainter")}
    note = f"{report.protocol['name']}, sha256 {report.protocol_sha256}. Figures of another hash do not compare."
    return tag(
        "section", None, tag("h2", None, title), tag("p", {"class": "aside"}, note), _folded("All facts", flat(facts))
    )


def _made(label: str, report: Report) -> Html:
    """What was evaluated, and where: the recipe, the machine, the cost."""
    facts = report.protocol
    hardware = flat({key: facts[key] for key in _HARDWARE if key in facts})
    seconds = sum(row["seconds_per_image"] * row["n"] for row in report.rows)
    cost: dict[str, Any] = {"completions, seconds in all": f"{seconds:.1f}"}
    for method in report.methods:
        rows = [row for row in report.rows if row["method"] == method]
        each = sum(row["seconds_per_image"] for row in rows) / len(rows)
        cost[method] = f"{each:.4f} s a picture, {rows[0]['network_calls']} network calls"
    recipe = [] if report.recipe is None else [_folded("Recipe of the model", flat(report.recipe))]
    return tag(
        "section",
        {"data-run": label or None},
        tag("h2", None, "Model, hardware and cost" + (f" ({label})" if label else "")),
        tag("p", {"class": "aside"}, f"Model: {facts.get('inpainter', 'not named')}"),
        _list({**hardware, **cost}),
        *recipe,
    )


def _folded(title: str, facts: Mapping[str, Any]) -> Html:
    return tag("details", None, tag("summary", None, title), _list(facts))


def _list(facts: Mapping[str, Any]) -> Html:
    pairs = [part for key, value in facts.items() for part in (tag("dt", None, key), tag("dd", None, str(value)))]
    return tag("dl", {"class": "facts"}, *pairs)


def _summary(report: Report) -> Html:
    facts, kinds = report.protocol, {row["mask"] for row in report.rows}
    return _lead(
        f"{_count(len(report.methods), 'method')} on {_count(len(kinds), 'kind')} of questions, always of the same "
        f"{_count(facts['n'], 'picture')}. Protocol {_short(report)}."
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _warning(firsts: Sequence[tuple[str, Report]]) -> Html:
    """That figures of several protocols do not compare, and in what these differ."""
    label, one = firsts[0]
    apart = [
        f"{other} from {label} in {', '.join(_told(said) for said in differences(one.protocol, report.protocol))}"
        for other, report in firsts[1:]
    ]
    return tag(
        "p",
        {"class": "warn"},
        f"These are {len(firsts)} protocols: figures of different ones do not compare, and stand in tables of their "
        f"own. {'; '.join(apart)}.",
    )


def _told(said: str) -> str:
    return said if len(said) <= 120 else f"{said.split()[0]}"


def _said(title: str, text: str) -> Html:
    return tag("section", None, tag("h2", None, title), tag("p", {"class": "aside"}, text))


def _lead(text: str) -> Html:
    return tag("p", {"class": "lead"}, text)


def _short(report: Report) -> str:
    return f"{report.protocol['name']}, {report.protocol_sha256[:8]}"


def _first(text: str) -> Html:
    return tag("th", {"scope": "col", "class": "text"}, text)


def _who(entry: Entry) -> Html:
    spot = tag(
        "svg", {"viewBox": "0 0 10 10", "class": f"spot k{entry.colour % COLOURS}", "aria-hidden": "true"}, _SPOT
    )
    run = [tag("small", None, entry.run)] if entry.run else []
    return tag("th", {"scope": "row"}, spot, entry.row["method"], *run)


def _by_kind(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    kinds = dict.fromkeys(entry.row["mask"] for entry in entries)
    return {kind: [entry for entry in entries if entry.row["mask"] == kind] for kind in kinds}


def _known(rows: Any, besides: Sequence[str] = ()) -> list[str]:
    """The figures that some row has: those of today's tables in their order, then all others, and the costs last."""
    seen = dict.fromkeys(
        key for row in rows for key, value in row.items() if value is not None and key not in (*_NO_FIGURES, *besides)
    )
    ordered = [key for key in HEADINGS if key in seen and key not in _COSTS]
    return [*ordered, *(key for key in seen if key not in HEADINGS), *(key for key in _COSTS if key in seen)]


def _label(key: str) -> tuple[str, str]:
    """How a figure is called, and its format; one that no table knows has its own name."""
    return HEADINGS.get(key, (key.replace("_", " "), ".4g"))


_SPOT = tag("circle", {"class": "dot", "cx": "5", "cy": "5", "r": "4"})
