"""Drawings of figures as SVG, in the colours of the page: dots with their intervals, and bars."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from diffusion_lab.charts import nice, powers, widened
from diffusion_lab.pages import Attributes, Html, joined, tag

COLOURS = 8
WIDTH, HEIGHT = 340.0, 236.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 14.0, 10.0, 34.0  # margins of dots
_NAMES, _VALUES, _ROW = 112.0, 62.0, 19.0  # of bars: room for names, for values, and from one to the next
_LINE = 13.0  # between names that would lie on each other
_LONGEST = 17  # letters of a name
_WIDE = 4  # times that the largest value is the smallest, from which on an axis of positive values is logarithmic

Interval = Sequence[float]
Scale = Callable[[float], float]


class Dot(NamedTuple):
    """A value with what it cost.

    Args:
        name: beside it.
        x: the cost, 0 or more.
        y: the value.
        interval: low and high end of it; None: not known.
        colour: number of its colour.
        marks: attributes such as ``data-method``, by which it is chosen.
    """

    name: str
    x: float
    y: float
    interval: Interval | None
    colour: int
    marks: Attributes


class Bar(NamedTuple):
    """A value among others.

    Args:
        name: beside it.
        value: from 0 on.
        interval: low and high end of it; None: not known.
        colour: number of its colour.
        marks: attributes such as ``data-method``, by which it is chosen.
    """

    name: str
    value: float
    interval: Interval | None
    colour: int
    marks: Attributes


def spot(colour: int) -> Html:
    """A dot of a colour, to stand before a name."""
    dot = tag("circle", {"class": "dot", "cx": "5", "cy": "5", "r": "4"})
    return tag("svg", {"viewBox": "0 0 10 10", "class": f"spot k{colour % COLOURS}", "aria-hidden": "true"}, dot)


def dots(title: str, note: str, dots: Sequence[Dot], x_label: str, form: str = ".3g") -> Html:
    """Values over their costs, which stand on a logarithmic axis with 0 to its left.

    What differs in a number at the end of its name alone is joined by a line, and named once.

    Args:
        title: above.
        note: beside it.
        dots: one at least.
        x_label: below.
        form: of values, for those who cannot see the dots.
    """
    ends = [end for dot in dots for end in (dot.y, *(dot.interval or ()))]
    y, y_ticks, logarithmic = vertical(min(ends), max(ends))
    x, x_ticks = _horizontal([dot.x for dot in dots])
    bottom = HEIGHT - BOTTOM
    axes = [path(f"M{LEFT} {TOP}V{bottom}H{WIDTH - RIGHT}", "axis")]
    for tick in y_ticks:
        axes.append(path(f"M{LEFT - 4} {y(tick):.1f}H{LEFT}", "axis"))
        axes.append(text(LEFT - 7, y(tick) + 3.5, f"{tick:g}", "end"))
    for tick in x_ticks:
        axes.append(path(f"M{x(tick):.1f} {bottom}v4", "axis"))
        axes.append(text(x(tick), bottom + 15, f"{tick:g}", "middle"))
    axes.append(text(WIDTH - RIGHT, HEIGHT - 4, x_label, "end"))
    lines, names = [], {dot.name: dot.name for dot in dots}
    for family in dict.fromkeys(_family(dot.name) for dot in dots):
        joint = sorted((dot for dot in dots if _family(dot.name) == family), key=lambda dot: (dot.x, dot.name))
        if len(joint) > 1:
            way = "L".join(f"{x(dot.x):.1f} {y(dot.y):.1f}" for dot in joint)
            lines.append(path(f"M{way}", f"line k{joint[0].colour % COLOURS}"))
            names |= {dot.name: "" for dot in joint} | {joint[-1].name: family}
    named = [dot for dot in dots if names[dot.name]]
    places = dict(zip((dot.name for dot in named), _labels(named, x, y), strict=True))
    marks = []
    for dot in dots:
        left, height = places.get(dot.name, (True, 0.0))
        height -= 9 if names[dot.name] != dot.name else 0  # clear of its line
        label = text(
            x(dot.x) + (8 if left else -8), height + 4, _short(names[dot.name]), "start" if left else "end", "name"
        )
        whisker = [_whisker(x(dot.x), y(dot.interval[0]), y(dot.interval[1]))] if dot.interval else []
        marks.append(
            tag(
                "g",
                {"class": f"k{dot.colour % COLOURS}", **dot.marks},
                tag("title", None, f"{dot.name}: {dot.y:{form}} at {dot.x:g} {x_label}"),
                *whisker,
                tag("circle", {"class": "dot", "cx": f"{x(dot.x):.1f}", "cy": f"{y(dot.y):.1f}", "r": "4"}),
                *([label] if dot in named else []),
            )
        )
    said = "; ".join(f"{dot.name}: {dot.y:{form}} at {dot.x:g}" for dot in dots)
    beside = joined(note, ", logarithmic" if logarithmic else "")
    return drawn(title, beside, (WIDTH, HEIGHT), f"{title} over {x_label}. {said}", [*axes, *lines, *marks])


def bars(title: str, note: str, groups: Sequence[tuple[str, Sequence[Bar]]], form: str = ".3g") -> Html:
    """Bars with a heading over each group of them, all from 0 on.

    Args:
        title: above.
        note: beside it.
        groups: heading and bars.
        form: of values.
    """
    ends = [end for _, group in groups for bar in group for end in (bar.value, *(bar.interval or ()))]
    most = max(ends, default=0) or 1
    room = WIDTH - _NAMES - _VALUES

    def x(value: float) -> float:
        return _NAMES + max(value, 0) / most * room

    inside, said, at = [], [], 0.0
    for heading, group in groups:
        inside.append(text(0, at + 13, heading, "start", "name"))
        at += _ROW + 2
        for bar in group:
            middle = at + _ROW / 2
            whisker = [_whisker(middle, x(bar.interval[0]), x(bar.interval[1]), flat=True)] if bar.interval else []
            width = max(x(bar.value) - _NAMES, 1)
            size: Attributes = {"x": _NAMES, "y": f"{at + 3:.1f}", "width": f"{width:.1f}", "height": 13, "rx": 3}
            inside.append(
                tag(
                    "g",
                    {"class": f"k{bar.colour % COLOURS}", **bar.marks},
                    tag("title", None, f"{bar.name}: {bar.value:{form}}"),
                    text(_NAMES - 8, middle + 4, _short(bar.name), "end"),
                    tag("rect", {"class": "block", **size}),
                    *whisker,
                    text(WIDTH, middle + 4, f"{bar.value:{form}}", "end", "name"),
                )
            )
            said.append(f"{heading}, {bar.name}: {bar.value:{form}}")
            at += _ROW
        at += 8
    return drawn(title, note, (WIDTH, at), f"{title}. {'; '.join(said)}", inside)


def drawn(title: str, note: str, size: tuple[float, float], said: str, inside: Sequence[Html]) -> Html:
    """A drawing with its caption.

    Args:
        title: above.
        note: beside it.
        size: width and height, in its own units.
        said: for those who cannot see it.
        inside: what is drawn.
    """
    width, height = size
    drawing = tag("svg", {"viewBox": f"0 0 {width:g} {height:g}", "role": "img", "aria-label": said}, *inside)
    return tag("figure", {"class": "plot"}, tag("figcaption", None, title, tag("span", None, note)), drawing)


def vertical(low: float, high: float) -> tuple[Scale, list[float], bool]:
    """Where a value stands, round values, and whether the axis is logarithmic."""
    logarithmic = low > 0 and high / low >= _WIDE
    low, high = widened(math.log(low), math.log(high), 0.06) if logarithmic else widened(low, high, 0.08)
    ticks = powers(math.exp(low), math.exp(high)) if logarithmic else nice(low, high, 4)
    while len(ticks) > 6:
        ticks = ticks[::2]
    room = HEIGHT - TOP - BOTTOM

    def y(value: float) -> float:
        return TOP + room * (1 - ((math.log(value) if logarithmic else value) - low) / (high - low))

    return y, ticks, logarithmic


def _horizontal(costs: Sequence[float]) -> tuple[Scale, list[float]]:
    """Where a cost stands, and the costs as ticks, as far as there is room for them."""
    paid = [math.log(cost) for cost in costs if cost > 0]
    free = any(cost <= 0 for cost in costs)
    left, right = LEFT + (86 if free else 22), WIDTH - RIGHT - 22

    def x(cost: float) -> float:
        if cost <= 0:
            return LEFT + 14
        low, high = min(paid), max(paid)
        return (left + right) / 2 if high == low else left + (right - left) * (math.log(cost) - low) / (high - low)

    ticks: list[float] = []
    for cost in sorted(set(costs)):
        if not ticks or x(cost) - x(ticks[-1]) > 24:
            ticks.append(cost)
    return x, ticks


def _labels(dots: Sequence[Dot], x: Scale, y: Scale) -> list[tuple[bool, float]]:
    """Whether each dot's name stands to its right, and its height: names on one side keep a line's distance."""
    right = [x(dot.x) < 0.6 * WIDTH for dot in dots]
    heights = [y(dot.y) for dot in dots]
    for column in {(round(x(dot.x) / 60), side) for dot, side in zip(dots, right, strict=True)}:
        members = [i for i, dot in enumerate(dots) if (round(x(dot.x) / 60), right[i]) == column]
        members.sort(key=lambda i: (heights[i], i))
        for above, below in itertools.pairwise(members):
            heights[below] = max(heights[below], heights[above] + _LINE)
        lowest = HEIGHT - BOTTOM - 4
        for number in reversed(members):
            heights[number] = min(heights[number], lowest)
            lowest = heights[number] - _LINE
    return list(zip(right, heights, strict=True))


def _family(name: str) -> str:
    return re.sub(r"[\s_-]*\d+$", "", name)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def _whisker(at: float, low: float, high: float, flat: bool = False) -> Html:
    ends = f"M{low:.1f} {at:.1f}H{high:.1f}" if flat else f"M{at:.1f} {low:.1f}V{high:.1f}"
    return path(ends, "whisker")


def path(way: str, kind: str) -> Html:
    """A line along a path, of a class of the page's style."""
    return tag("path", {"class": kind, "d": way})


def text(x: float, y: float, text: str, anchor: str, kind: str | None = None) -> Html:
    """Words at a place."""
    return tag("text", {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor, "class": kind}, text)
