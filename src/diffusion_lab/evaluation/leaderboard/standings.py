"""Configurations beside each other, over training seeds and over pictures.

Of each figure two intervals are taken, one over the seeds of training and one over the pictures, and the wider is
printed. Neighbours are compared by differences: seed by seed, since a seed means the same batches and holes, and
picture by picture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffusion_lab.bootstrap import LEVEL, interval, verdict
from diffusion_lab.evaluation.leaderboard.runs import Run, configurations
from diffusion_lab.evaluation.tables import MORE_IS_BETTER

Array = NDArray[np.float64]

LOWER = {"val/loss": False}


class Figure(NamedTuple):
    """A figure of a configuration, or the difference of one from another.

    Args:
        mean: over its seeds.
        low: end of the wider interval; not a number where there is none.
        high: the other end.
        over: what the wider interval is over, "seeds" or "pictures"; "nothing" where there is none.
        spread: standard deviation over seeds; None of a single one.
        seeds: how many.
    """

    mean: float
    low: float
    high: float
    over: str
    spread: float | None
    seeds: int


class Entry(NamedTuple):
    """A configuration's place.

    Args:
        name: what tells it from the others.
        settings: the same, by setting.
        method: that its pictures were made by; empty: it was not evaluated.
        figures: by name.
        by_seed: values of each figure, by seed.
        pictures: of each figure, (n,), means over seeds and kinds of holes.
        steps: at which its curves stand, smallest and largest.
        curves: of each validation metric, [step, mean, low, high] over seeds.
        minutes: of a training, mean; None: not known.
    """

    name: str
    settings: Mapping[str, str]
    method: str
    figures: Mapping[str, Figure]
    by_seed: Mapping[str, Mapping[str, float]]
    pictures: Mapping[str, Array]
    steps: tuple[int, int]
    curves: Mapping[str, Sequence[Sequence[float]]]
    minutes: float | None


class Rank(NamedTuple):
    """An entry in its order, and how it differs from the one before it and from the first; None for the first.

    Args:
        entry: the configuration.
        above: difference from its upper neighbour.
        first: difference from the best.
    """

    entry: Entry
    above: Figure | None
    first: Figure | None


class Board(NamedTuple):
    """Entries whose figures compare.

    Args:
        protocol: of the evaluations, or empty: of the validations alone.
        by: the figure that orders them.
        ranks: the best first.
        kinds: of holes, over which figures are means.
        n: pictures of each kind.
    """

    protocol: str
    by: str
    ranks: Sequence[Rank]
    kinds: Sequence[str]
    n: int


def more_is_better(figure: str) -> bool | None:
    """Whether more of a figure is better; None: neither."""
    return (MORE_IS_BETTER | LOWER).get(figure, MORE_IS_BETTER.get(figure.removeprefix("val/")))


def boards(found: Sequence[Run], by: str | None = None) -> list[Board]:
    """A board of each protocol that the runs were evaluated by, or of their validations if there is none.

    There is no board while nothing is known of any run.

    Args:
        found: runs.
        by: the figure that orders them; None: LPIPS of the evaluation, or else of the validations, or the loss.

    Raises:
        ValueError: if nobody has that figure, or it has no better end.
    """
    common = frozenset.intersection(*(run.asked for run in found)) if found else frozenset()
    made: list[Board] = []
    evaluated = [run for run in found if run.report]
    for protocol in dict.fromkeys(run.report.protocol_sha256 for run in evaluated if run.report):
        same = [run for run in evaluated if run.report and run.report.protocol_sha256 == protocol]
        report = same[0].report
        assert report
        methods = dict.fromkeys(row["method"] for row in report.rows if row["network_calls"])
        entries = [_entry(each, common, method) for method in methods for each in configurations(same)]
        kinds = list(dict.fromkeys(row["mask"] for row in report.rows))
        made.append(_board(protocol, by, entries, kinds, int(report.protocol["n"])))
    if found and not made:
        entries = [_entry(each, common, "") for each in configurations(found)]
        made += [_board("", by, entries, [], 0)] if by or any(entry.figures for entry in entries) else []
    return made


def _entry(same: Sequence[Run], common: frozenset[str], method: str) -> Entry:
    """What the runs of one configuration say of it; of two with one seed, the later counts."""
    by_run = {run.seed: run for run in sorted(same, key=lambda run: run.folder.stat().st_mtime)}
    by_seed: dict[str, dict[str, float]] = {}
    pictures: dict[str, list[Array]] = {}
    for seed, run in by_run.items():
        for key, value in _last(run.curve).items():
            by_seed.setdefault(key, {})[seed] = value
        if not (run.report and method):
            continue
        rows = [row for row in run.report.rows if row["method"] == method]
        each = [entry for entry in run.report.pictures if entry["method"] == method]
        for key in rows[0]:
            values = [row.get(key) for row in rows]
            if key not in ("mask", "method", "n") and None not in values:
                by_seed.setdefault(key, {})[seed] = float(
                    np.mean([float(value) for value in values if value is not None])
                )
        for key in each[0] if each else ():
            if key not in ("mask", "method", "hole_area") and all(key in entry for entry in each):
                pictures.setdefault(key, []).append(np.mean([entry[key] for entry in each], axis=0))
    shares = {key: np.mean(values, axis=0) for key, values in pictures.items() if len(values) == len(by_run)}
    figures = {key: figure(list(values.values()), shares.get(key)) for key, values in by_seed.items()}
    steps = [int(run.curve[-1]["step"]) + 1 for run in by_run.values() if run.curve] or [0]
    minutes = [run.minutes for run in by_run.values() if run.minutes is not None]
    own = sorted(next(iter(by_run.values())).asked - common)
    return Entry(
        " ".join(own) or "all alike",
        {key.lstrip("+~"): value or "left out" for key, _, value in (each.partition("=") for each in own)},
        method,
        figures,
        by_seed,
        shares,
        (min(steps), max(steps)),
        _curves([run.curve for run in by_run.values()]),
        float(np.mean(minutes)) if minutes else None,
    )


def _last(curve: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: value for line in curve for key, value in line.items() if key.startswith("val/")}


def _curves(curves: Sequence[Sequence[Mapping[str, float]]]) -> dict[str, list[list[float]]]:
    """Mean, smallest and largest value over seeds at every step that a seed was validated at."""
    at: dict[str, dict[int, list[float]]] = {}
    for curve in curves:
        for line in curve:
            for key, value in line.items():
                if key.startswith("val/"):
                    at.setdefault(key, {}).setdefault(int(line["step"]) + 1, []).append(value)
    return {
        key: [[step, float(np.mean(x)), min(x), max(x)] for step, x in sorted(steps.items())]
        for key, steps in at.items()
    }


def figure(values: Sequence[float], shares: Array | None) -> Figure:
    """A mean over seeds with the wider of its two 95 % intervals.

    Over seeds it is Student's: of three seeds a bootstrap would be far too narrow.

    Args:
        values: of each seed.
        shares: what each picture adds, of the same mean; None: not known.

    Example:
        >>> figure([1.0, 2.0, 3.0], None)._replace(low=0.0, high=0.0)
        Figure(mean=2.0, low=0.0, high=0.0, over='seeds', spread=1.0, seeds=3)
    """
    mean, count = float(np.mean(values)), len(values)
    spread = float(np.std(values, ddof=1)) if count > 1 else None
    ends = {}
    if spread is not None:
        half = student(LEVEL, count - 1) * spread / math.sqrt(count)
        ends["seeds"] = (mean - half, mean + half)
    if shares is not None and len(shares) > 1:
        low, high = interval(shares)
        ends["pictures"] = (mean + low - float(shares.mean()), mean + high - float(shares.mean()))
    over = max(ends, key=lambda name: ends[name][1] - ends[name][0], default="nothing")
    return Figure(mean, *ends.get(over, (math.nan, math.nan)), over, spread, count)


def difference(one: Entry, other: Entry, by: str) -> Figure:
    """How far the first lies above the second, in pairs of seeds that both have and of pictures."""
    seeds = [seed for seed in one.by_seed[by] if seed in other.by_seed[by]]
    paired = [one.by_seed[by][seed] - other.by_seed[by][seed] for seed in seeds]
    shares = None
    if by in one.pictures and by in other.pictures:
        shares = one.pictures[by] - other.pictures[by]
    return figure(paired or [one.figures[by].mean - other.figures[by].mean], shares)


def said(found: Figure, by: str) -> str:
    """What a difference says: better, worse or inconclusive; of one training, nothing can be said of others."""
    if found.seeds < 2:
        return "inconclusive (one seed)"
    return verdict(found.low, found.high, more_is_better(by))


def student(level: float, degrees: int) -> float:
    """The point within whose distance of 0 Student's t lies with a probability (Abramowitz & Stegun 26.7.3, 26.7.4).

    Args:
        level: the probability.
        degrees: of freedom, 1 or more.

    Example:
        >>> round(student(0.95, 2), 3)
        4.303
    """

    def inside(t: float) -> float:
        angle = math.atan(t / math.sqrt(degrees))
        term = math.cos(angle) if degrees % 2 else 1.0
        total = 0.0
        for k in range(degrees // 2):
            total += term
            term *= math.cos(angle) ** 2 * ((2 * k + 2) / (2 * k + 3) if degrees % 2 else (2 * k + 1) / (2 * k + 2))
        series = math.sin(angle) * total
        return 2 / math.pi * (angle + series) if degrees % 2 else series

    low, high = 0.0, 1e4
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle) < level else (low, middle)
    return high


def _board(protocol: str, by: str | None, entries: Sequence[Entry], kinds: Sequence[str], n: int) -> Board:
    known = list(dict.fromkeys(key for entry in entries for key in entry.figures))
    wanted = by or next((key for key in ("lpips", "val/lpips", "val/loss", *known) if key in known), None)
    if wanted not in known:
        raise ValueError(f"no run has the figure '{by}'; there is {', '.join(known) or 'none yet'}")
    more = more_is_better(wanted)
    if more is None:
        raise ValueError(f"'{wanted}' has no better end to order by")
    ordered = sorted(
        (entry for entry in entries if wanted in entry.figures),
        key=lambda entry: -entry.figures[wanted].mean if more else entry.figures[wanted].mean,
    )
    ranks = [
        Rank(
            entry,
            difference(entry, ordered[i - 1], wanted) if i else None,
            difference(entry, ordered[0], wanted) if i else None,
        )
        for i, entry in enumerate(ordered)
    ]
    return Board(protocol, wanted, ranks, kinds, n)
