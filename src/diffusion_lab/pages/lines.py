"""Drawings of many lines as SVG, in the colours of the page: curves over steps, and parallel coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from diffusion_lab.charts import nice
from diffusion_lab.pages import Attributes, Html, tag
from diffusion_lab.pages.plots import BOTTOM, COLOURS, HEIGHT, LEFT, RIGHT, TOP, WIDTH, drawn, path, text, vertical

_APART, _TALL, _SIDE = 120.0, 260.0, 60.0  # of parallel axes: from one to the next, their height, the margins
_TOP = 40.0  # of an axis
_ABOVE, _BELOW = -9.0, 16.0  # from where a value stands to the foot of its label


class Curve(NamedTuple):
    """A value over steps.

    Args:
        name: of it.
        points: (x, value, low, high), by x.
        colour: number of its colour.
        marks: attributes such as ``data-method``, by which it is chosen.
    """

    name: str
    points: Sequence[Sequence[float]]
    colour: int
    marks: Attributes


class Axis(NamedTuple):
    """One of several parallel axes.

    Args:
        name: above it.
        values: of each thread, words or numbers; None: not known.
    """

    name: str
    values: Sequence[str | float | None]


def curves(title: str, note: str, lines: Sequence[Curve], x_label: str) -> Html:
    """Curves with what lies between the lowest and the highest of their seeds.

    Args:
        title: above.
        note: beside it.
        lines: one at least, with points.
        x_label: below.
    """
    y, ticks, logarithmic = vertical(*_ends([end for line in lines for point in line.points for end in point[1:]]))
    most = max(point[0] for line in lines for point in line.points) or 1
    bottom = HEIGHT - BOTTOM

    def x(step: float) -> float:
        return LEFT + step / most * (WIDTH - LEFT - RIGHT)

    axes = [path(f"M{LEFT} {TOP}V{bottom}H{WIDTH - RIGHT}", "axis")]
    axes += [text(LEFT - 7, y(tick) + 3.5, f"{tick:g}", "end") for tick in ticks]
    axes += [text(x(tick), bottom + 15, f"{tick:g}", "middle") for tick in nice(0, most, 4) if 0 < tick <= most]
    axes.append(text(WIDTH - RIGHT, HEIGHT - 4, x_label, "end"))
    inside = []
    for line in lines:
        there = [(x(step), y(low), y(high)) for step, _, low, high in line.points]
        round_it = [f"{at:.1f} {low:.1f}" for at, low, _ in there] + [
            f"{at:.1f} {high:.1f}" for at, _, high in reversed(there)
        ]
        way = "L".join(f"{x(step):.1f} {y(mean):.1f}" for step, mean, _, _ in line.points)
        shown = [path(f"M{'L'.join(round_it)}Z", "between"), path(f"M{way}", "line clear")]
        inside.append(_marked(line.name, line.colour, line.marks, *shown))
    said = "; ".join(f"{line.name}: {line.points[-1][1]:.3g} at {line.points[-1][0]:g}" for line in lines)
    beside = f"{note}{', logarithmic' if logarithmic else ''}"
    return drawn(title, beside, (WIDTH, HEIGHT), f"{title} over {x_label}. {said}", [*axes, *inside])


def parallel(title: str, note: str, axes: Sequence[Axis], names: Sequence[str], marks: Sequence[Attributes]) -> Html:
    """A thread for each thing, through its value on every axis (Inselberg 1985); it is broken where none is known.

    Args:
        title: above.
        note: beside it.
        axes: two at least, each with a value for every thing.
        names: of the things.
        marks: attributes of each, by which it is chosen.
    """
    width = 2 * _SIDE + _APART * (len(axes) - 1)
    inside, heights, beside = [], [], []
    for number, axis in enumerate(axes):
        x, (places, labels) = _SIDE + number * _APART, _places(axis.values)
        heights.append(places)
        inside.append(path(f"M{x:.1f} {_TOP}V{_TOP + _TALL}", "axis"))
        inside.append(text(x, 14, axis.name, "middle", "name"))
        beside += [text(x + 9, place + down, label, "start", "beside") for label, place, down in labels]
    for thing, (name, chosen) in enumerate(zip(names, marks, strict=True)):
        ways, begun = "", False
        for number, places in enumerate(heights):
            place = places[thing]
            if place is not None:
                ways += f"{'L' if begun else 'M'}{_SIDE + number * _APART:.1f} {place:.1f}"
            begun = place is not None
        inside.append(_marked(name, thing, chosen, path(ways, "line clear")))
    said = "; ".join(f"{name}: {', '.join(_told(axis.values[i]) for axis in axes)}" for i, name in enumerate(names))
    return drawn(title, note, (width, _TOP + _TALL + 24), f"{title}. {said}", [*inside, *beside])


def _places(values: Sequence[str | float | None]) -> tuple[list[float | None], list[tuple[str, float, float]]]:
    """Where each value stands on its axis, and what stands beside the axis: all words, or the ends of numbers.

    Beside the axis, a label is (text, where its value stands, how far below that it is written): above the threads that
    end at the top, and below those that end at the bottom.
    """
    numbers = [value for value in values if isinstance(value, int | float)]
    if numbers:
        low, high = min(numbers), max(numbers)
        room = (high - low) or 1
        at = {value: _TOP + _TALL * (1 - (value - low) / room) for value in numbers}
        places = [at[value] if isinstance(value, int | float) else None for value in values]
        ends = [(f"{high:.3g}", at[high], _ABOVE)] + ([(f"{low:.3g}", at[low], _BELOW)] if low < high else [])
        return places, ends
    words = list(dict.fromkeys(value for value in values if value is not None))
    by_word: dict[str | float, float] = {
        word: _TOP + _TALL * (number + 0.5) / len(words) for number, word in enumerate(words)
    }
    places = [None if value is None else by_word[value] for value in values]
    return places, [(f"{word}", place, _ABOVE) for word, place in by_word.items()]


def _told(value: str | float | None) -> str:
    return "-" if value is None else value if isinstance(value, str) else f"{value:.3g}"


def _ends(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def _marked(name: str, colour: int, marks: Attributes, *inside: Html) -> Html:
    return tag("g", {"class": f"k{colour % COLOURS}", **marks}, tag("title", None, name), *inside)
