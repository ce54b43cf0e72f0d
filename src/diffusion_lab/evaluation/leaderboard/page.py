"""leaderboard.html: boards as one file to look at, with what of their sweep is not done yet."""

from __future__ import annotations

import math
from collections.abc import Sequence

from diffusion_lab.evaluation.leaderboard.runs import Open
from diffusion_lab.evaluation.leaderboard.standings import Board, Entry, Figure, more_is_better, said
from diffusion_lab.evaluation.leaderboard.tables import about, caption, columns, named, notes
from diffusion_lab.pages import Attributes, Html, cell, chips, heading, page, section, sortable, tag
from diffusion_lab.pages.lines import Axis, Curve, curves, parallel
from diffusion_lab.pages.plots import Dot, dots, spot

_COSTS = {"network_calls": "network calls", "seconds_per_image": "seconds a picture"}
_CURVES = ("val/lpips", "val/psnr", "val/loss")
_FIRST, _BESIDE = 3, 8  # figures in the first table, and in each of those that have the others: so many fit in a window
_CONFIGURATION = tag("th", {"scope": "col"}, "Configuration")


def written(title: str, found: Sequence[Board], left: Sequence[Open]) -> str:
    """The page as text, the same for the same boards.

    Args:
        title: of the page.
        found: boards.
        left: runs that are not done.
    """
    names = dict.fromkeys(named(rank.entry) for board in found for rank in board.ranks)
    body = [tag("div", {"class": "bar"}, chips("method", "Shown", [*names]), _seen())] if len(names) > 1 else []
    lead = [tag("p", {"class": "lead"}, _summary(found, left))]
    for board in found:
        made = (_table(board), _more(board), _costs(board), _curves(board), _settings(board))
        parts = [part for part in made if part]
        head = [tag("h2", None, f"Protocol {board.protocol[:8]}")] if len(found) > 1 else []
        body.append(tag("div", {"class": "protocol"} if head else None, *head, *parts))
    if left:
        rows = [tag("tr", None, tag("th", {"scope": "row"}, run.name), cell(run.state)) for run in left]
        table = sortable("Not done", [heading("run"), heading("state", words=True)], [(None, rows)])
        body.append(section("Not done", ["Runs that are not trained, or stand in no table."], table))
    return page(title, lead, body)


def _summary(found: Sequence[Board], left: Sequence[Open]) -> str:
    done = sum(len(board.ranks) for board in found)  # a configuration has one for each method
    more = f", {len(left)} of the runs not done" if left else ""
    apart = f" {len(found)} protocols: their figures do not compare." if len(found) > 1 else ""
    return f"{done} entries{more}.{apart}"


def _seen() -> Html:
    return tag("p", {"id": "seen", "class": "aside", "role": "status"})


def _marks(entry: Entry) -> Attributes:
    return {"data-method": named(entry)}


def _table(board: Board) -> Html:
    """The first figures, the best configuration first, and whether each differs from those above it."""
    keys = columns(board)[:_FIRST]
    head = [_CONFIGURATION, heading("seeds"), *map(_head, keys), heading("minutes", "low")]
    head += [heading("than the one above"), heading("than the first")]
    rows = []
    for colour, rank in enumerate(board.ranks):
        entry = rank.entry
        minutes = cell(None) if entry.minutes is None else cell(entry.minutes, f"{entry.minutes:.1f}")
        others = (_apart(found, board.by) for found in (rank.above, rank.first))
        seeds = cell(entry.figures[board.by].seeds)
        rows.append(tag("tr", _marks(entry), _name(entry, colour), seeds, *_values(entry, keys), minutes, *others))
    return section(
        "Figures", notes(board), sortable("Figures", head, [(None, rows)]), attributes={"class": "figures board"}
    )


def _more(board: Board) -> Html | None:
    """The other figures, in tables that a window has room for."""
    keys, tables = columns(board)[_FIRST:], []
    for start in range(0, len(keys), _BESIDE):
        some = keys[start : start + _BESIDE]
        rows = [
            tag("tr", _marks(rank.entry), _name(rank.entry, colour), *_values(rank.entry, some))
            for colour, rank in enumerate(board.ranks)
        ]
        captions = ", ".join(caption(key)[0] for key in some)
        tables.append(sortable(f"More figures: {captions}", [_CONFIGURATION, *map(_head, some)], [(None, rows)]))
    return section("More figures", ["In the same order."], *tables) if tables else None


def _head(key: str) -> Html:
    more = more_is_better(key)
    return heading(caption(key)[0], None if more is None else "high" if more else "low", key)


def _name(entry: Entry, colour: int) -> Html:
    return tag("th", {"scope": "row"}, spot(colour), named(entry))


def _values(entry: Entry, keys: Sequence[str]) -> list[Html]:
    return [_value(entry.figures.get(key), key) for key in keys]


def _value(found: Figure | None, key: str) -> Html:
    if found is None:
        return cell(None)
    form = caption(key)[1]
    spread = [] if found.spread is None else [tag("small", None, f"spread {found.spread:{form}}")]
    return cell(found.mean, about(found, form), *spread)


def _apart(found: Figure | None, by: str) -> Html:
    if found is None:
        return cell(None)
    verdict, form = said(found, by), caption(by)[1]
    kind = verdict if verdict in ("better", "worse") else ""
    ends = "" if math.isnan(found.low) else f"{found.low:+{form}} to {found.high:+{form}}"
    pill = tag("span", {"class": f"verdict {kind}".strip()}, verdict)
    return cell(found.mean, f"{found.mean:+{form}} ", pill, tag("small", None, ends))


def _costs(board: Board) -> Html | None:
    """Quality against what a picture costs, where that differs."""
    entries = [rank.entry for rank in board.ranks]
    plots = []
    for key in dict.fromkeys((board.by, "fid")):
        for cost, label in _COSTS.items():
            points = [
                Dot(named(entry), entry.figures[cost].mean, value.mean, _ends(value), colour, _marks(entry))
                for colour, entry in enumerate(entries)
                if cost in entry.figures and (value := entry.figures.get(key))
            ]
            if len({point.x for point in points}) > 1:
                plots.append(dots(caption(key)[0], "", points, label, caption(key)[1]))
    note = "Each with its 95 % interval."
    return section("Quality and cost", [note], tag("div", {"class": "plots"}, *plots)) if plots else None


def _ends(found: Figure) -> tuple[float, float] | None:
    return None if math.isnan(found.low) else (found.low, found.high)


def _curves(board: Board) -> Html | None:
    """Validations over steps."""
    plots = []
    for key in _CURVES:
        lines = [
            Curve(named(rank.entry), points, colour, _marks(rank.entry))
            for colour, rank in enumerate(board.ranks)
            if len(points := rank.entry.curves.get(key, ())) > 1
        ]
        if lines:
            plots.append(curves(caption(key)[0], "", lines, "steps"))
    note = "Means over seeds; the area is from the lowest seed to the highest."
    return section("While they trained", [note], tag("div", {"class": "plots"}, *plots)) if plots else None


def _settings(board: Board) -> Html | None:
    """What was varied beside what came of it."""
    entries = [rank.entry for rank in board.ranks]
    if len(entries) < 2:
        return None
    keys = dict.fromkeys(key for entry in entries for key in entry.settings)
    axes = [Axis(key, [entry.settings.get(key, "left out") for entry in entries]) for key in keys]
    for key in columns(board)[:4]:
        values = [entry.figures[key].mean if key in entry.figures else None for entry in entries]
        axes.append(Axis(caption(key)[0], values))
    drawing = parallel("Settings and figures", "", axes, [*map(named, entries)], [*map(_marks, entries)])
    note = "A line is a configuration, through its settings and its figures."
    beside: Attributes = {"class": "wide", "role": "region", "aria-label": "Settings and figures", "tabindex": "0"}
    return section("Settings and figures", [note], tag("div", beside, drawing))
