"""Boards as Markdown, as JSON and on the screen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from diffusion_lab.evaluation.leaderboard.runs import Open
from diffusion_lab.evaluation.leaderboard.standings import Board, Entry, Figure, more_is_better, said
from diffusion_lab.evaluation.tables import HEADINGS

_COSTS = ("seconds_per_image", "network_calls")
_LEFT_OUT = ("true_colourfulness", "colourfulness")


def columns(board: Board) -> list[str]:
    """The figures of a board in the order of its tables: the one that it is ordered by, the others, the costs."""
    known = {key for rank in board.ranks for key in rank.entry.figures} - set(_LEFT_OUT)
    evaluated = [key for key in HEADINGS if key in known and key not in _COSTS]
    evaluated += sorted(key for key in known if key not in HEADINGS and not key.startswith("val/"))
    validated = sorted(key for key in known if key.startswith("val/"))
    rest = [key for key in (evaluated or validated) if key != board.by]
    return [board.by, *rest, *(key for key in _COSTS if key in known)]


def caption(key: str) -> tuple[str, str]:
    """How a figure is called, and its format."""
    name, form = HEADINGS.get(key.removeprefix("val/"), (key.removeprefix("val/").replace("_", " "), ".4f"))
    more = more_is_better(key)
    arrow = "" if more is None or name[-1] in "↑↓" else " ↑" if more else " ↓"
    form = ".0f" if form == "d" else form
    return ("val/" if key.startswith("val/") else "") + name + arrow, form


def named(entry: Entry) -> str:
    """A configuration and its method."""
    return f"{entry.name}, {entry.method}" if entry.method not in ("", "diffusion") else entry.name


def about(found: Figure, form: str) -> str:
    """A mean, half of its wider interval and what that is over."""
    mean = f"{found.mean:{form}}"
    if math.isnan(found.low) or found.low == found.high:
        return mean
    return f"{mean} ±{(found.high - found.low) / 2:{form}}{'ˢ' if found.over == 'seeds' else 'ᵖ'}"


def apart(found: Figure | None, by: str) -> str:
    """A difference with its interval, and what it says."""
    if found is None:
        return ""
    form = caption(by)[1]
    ends = "" if math.isnan(found.low) else f" ({found.low:+{form}} to {found.high:+{form}})"
    return f"{found.mean:+{form}}{ends}: {said(found, by)}"


def cells(board: Board) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of a table."""
    keys = columns(board)
    minutes = any(rank.entry.minutes is not None for rank in board.ranks)
    head = ["configuration", "seeds", "steps", *(caption(key)[0] for key in keys), *(["minutes"] if minutes else [])]
    rows = []
    for rank in board.ranks:
        entry = rank.entry
        steps = " to ".join(dict.fromkeys(map(str, entry.steps)))
        values = [about(entry.figures[key], caption(key)[1]) if key in entry.figures else "-" for key in keys]
        time = "-" if entry.minutes is None else f"{entry.minutes:.1f}"
        seeds = str(entry.figures[board.by].seeds)
        rows.append([named(entry), seeds, steps, *values, *([time] if minutes else [])])
    return [*head, "than the one above", "than the first"], [
        [*row, apart(rank.above, board.by), apart(rank.first, board.by)]
        for row, rank in zip(rows, board.ranks, strict=True)
    ]


def notes(board: Board) -> list[str]:
    """The sentences that a reader of a board needs."""
    of = f"the {board.n} pictures and {', '.join(board.kinds)}" if board.kinds else "the validation's pictures"
    found = [
        f"Ordered by {caption(board.by)[0]}; figures are means over seeds, of {of}.",
        "±: half of a 95 % interval, the wider of two: ˢ over training seeds (Student's), ᵖ over pictures (bootstrap). "
        "Differences are in pairs, seed by seed and picture by picture; inconclusive: the wider interval holds 0. Of "
        "many comparisons at 95 %, one in twenty finds a difference by chance.",
    ]
    if board.by == "val/loss":
        found.append("val/loss is a mean over a schedule's levels: between two schedules it says nothing.")
    if len({rank.entry.steps for rank in board.ranks} | {rank.entry.steps[:1] * 2 for rank in board.ranks}) > 1:
        found.append("Not all runs stand at the same step.")
    if board.protocol:
        found.append(f"Protocol sha256 {board.protocol[:16]}.")
    return found


def markdown(boards: Sequence[Board], left: Sequence[Open] = ()) -> str:
    """The boards as Markdown, and the runs that are not done."""
    lines: list[str] = []
    for board in boards:
        head, rows = cells(board)
        lines += [_line(head), _line(["---", *["---:"] * (len(head) - 3), "---", "---"]), *map(_line, rows), ""]
        lines += [f"{note}\n" for note in notes(board)]
    if left:
        lines += ["Not done:\n", *(f"- {run.name}: {run.state}" for run in left)]
    return "\n".join(lines).rstrip() + "\n"


def facts(board: Board) -> dict[str, Any]:
    """A board as JSON has it."""

    def plain(found: Figure | None) -> dict[str, Any] | None:
        if found is None:
            return None
        ends = None if math.isnan(found.low) else [found.low, found.high]
        return {
            "mean": found.mean, "interval": ends, "over": found.over, "spread": found.spread, "seeds": found.seeds
        }  # fmt: skip

    rows = []
    for rank in board.ranks:
        entry = rank.entry
        told = {"than_the_one_above": rank.above, "than_the_first": rank.first}
        rows.append(
            {
                "configuration": entry.name,
                "settings": dict(entry.settings),
                "method": entry.method or None,
                "figures": {key: plain(found) for key, found in entry.figures.items()},
                "by_seed": entry.by_seed,
                "differences": {
                    key: None if found is None else {**(plain(found) or {}), "verdict": said(found, board.by)}
                    for key, found in told.items()
                },
                "steps": list(entry.steps),
                "curves": entry.curves,
                "minutes": entry.minutes,
            }
        )
    return {
        "protocol_sha256": board.protocol or None,
        "by": board.by,
        "kinds": list(board.kinds),
        "n": board.n,
        "rows": rows,
    }


def show(boards: Sequence[Board], left: Sequence[Open], console: Console) -> None:
    """Print the boards: the figure that orders them, with differences, and then the others; and what is not done."""
    for board in boards:
        head, rows = cells(board)
        first = [0, 1, 2, 3, len(head) - 2, len(head) - 1]
        others = [0, *range(4, len(head) - 2)]
        for chosen in (first, others):
            table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
            for number in chosen:
                table.add_column(head[number], justify="left" if number == 0 else "right")
            for row in rows:
                table.add_row(*(row[number] for number in chosen))
            if len(chosen) > 1:
                console.print(table)
        for note in notes(board):
            console.print(note, style="dim", markup=False, highlight=False)
    for run in left:
        console.print(f"{run.name}: {run.state}", markup=False, highlight=False)


def _line(row: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
