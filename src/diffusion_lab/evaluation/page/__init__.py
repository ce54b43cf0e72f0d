"""report.html: the figures of one evaluation or of several, as one file to look at.

Figures of two protocols stand in different tables, and the page says in what the protocols differ. Runs of one protocol
share a table, and differ from the first one in pairs of the same pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusion_lab.evaluation.page.drawings import areas, calls
from diffusion_lab.evaluation.page.entries import entries_of
from diffusion_lab.evaluation.page.pictures import looks, nearest
from diffusion_lab.evaluation.page.tables import against, attributes, between, figures
from diffusion_lab.evaluation.report import Report
from diffusion_lab.files import replacing
from diffusion_lab.pages import Html, chips, page, section, tag
from diffusion_lab.protocol import differences
from diffusion_lab.recipe import flat

HERE = Path(__file__).parent
_MACHINE = ("device", "devices", "threads", "batch_size", "versions")


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
    entries = entries_of(runs)
    first = next(iter(runs.values()))
    found = [
        figures(entries, runs.values()),
        *(against(entries, report.methods[0], label) for label, report in runs.items()),
        between(runs) if len(runs) > 1 else None,
        calls(entries),
        areas(runs, entries),
        attributes(runs, entries),
        *(looks(report) for report in runs.values() if report.gallery),
        *(nearest(report) for report in runs.values() if report.nearest),
        _facts(first),
        *(_made(label, report) for label, report in runs.items()),
    ]
    return [part for part in found if part]


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


def _facts(report: Report) -> Html:
    facts = {key: value for key, value in report.protocol.items() if key not in (*_MACHINE, "inpainter")}
    note = f"{report.protocol['name']}, sha256 {report.protocol_sha256}. Figures of another hash do not compare."
    return section("Protocol", [note], _folded("All facts", flat(facts)))


def _made(label: str, report: Report) -> Html:
    """What was evaluated, and where: the recipe, the machine, the cost."""
    facts = report.protocol
    machine = flat({key: facts[key] for key in _MACHINE if key in facts})
    seconds = sum(row["seconds_per_image"] * row["n"] for row in report.rows)
    cost: dict[str, Any] = {"completions, seconds in all": f"{seconds:.1f}"}
    for method in report.methods:
        rows = [row for row in report.rows if row["method"] == method]
        each = sum(row["seconds_per_image"] for row in rows) / len(rows)
        cost[method] = f"{each:.4f} s a picture, {rows[0]['network_calls']} network calls"
    recipe = [] if report.recipe is None else [_folded("Recipe of the model", flat(report.recipe))]
    return section(
        "Model, machine and cost" + (f" ({label})" if label else ""),
        [f"Model: {facts.get('inpainter', 'not named')}"],
        _list({**machine, **cost}),
        *recipe,
        attributes={"data-run": label or None},
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


def _lead(text: str) -> Html:
    return tag("p", {"class": "lead"}, text)


def _short(report: Report) -> str:
    return f"{report.protocol['name']}, {report.protocol_sha256[:8]}"
