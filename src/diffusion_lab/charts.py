"""Lines on a pair of axes, drawn by Pillow: what a run or a page of the documentation has to show needs no more."""

import math
from collections.abc import Callable, Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#777777", "#000000", "#e08214", "#35978f")
MARGIN = (62, 30, 16, 46)  # pixels: left, top, right, bottom
SCALE = 2  # drawn so much larger than asked for, so that thin lines stay smooth on any screen

Points = Sequence[tuple[float, float]]


def nice(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers between two ends, about so many.

    Example:
        >>> nice(0.0, 1.0)
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    rough = (high - low) / count
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * 0.999)
    return [round(i * step, 10) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def widened(low: float, high: float, share: float) -> tuple[float, float]:
    """Two ends with a margin of a share of their distance; of 1 where there is none."""
    margin = share * (high - low or 1)
    return low - margin, high + margin


def powers(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten between two ends.

    Example:
        >>> powers(10, 250)
        [10.0, 20.0, 50.0, 100.0, 200.0]
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [f * 10.0**d for d in decades for f in (1, 2, 5) if low * 0.999 <= f * 10.0**d <= high * 1.001]


def chart(
    lines: Mapping[str, Points],
    x_label: str,
    y_label: str,
    title: str = "",
    logarithmic: bool = False,
    y_range: tuple[float, float] | None = None,
    size: tuple[int, int] = (460, 300),
    marks: bool = True,
) -> Image.Image:
    """A line for each series, with a legend.

    Args:
        lines: points (x, y) by the name of the series.
        x_label: below.
        y_label: above the axis, beside the title.
        title: of the chart.
        logarithmic: the x axis, whose values are above 0.
        y_range: its ends; None is what the points need.
        size: in pixels, legend apart.
        marks: dots at the points.
    """
    width, height = size
    left, top, right, bottom = MARGIN
    font, small = ImageFont.load_default(13 * SCALE), ImageFont.load_default(11 * SCALE)
    legend = 22 + 10 + max(int(small.getlength(name)) // SCALE for name in lines)
    canvas = Image.new("RGB", ((width + legend) * SCALE, height * SCALE), "white")
    draw = ImageDraw.Draw(canvas)
    xs, ys = ([point[i] for points in lines.values() for point in points] for i in (0, 1))
    low, high = y_range or widened(min(ys), max(ys), 0.06)
    warp: Callable[[float], float] = math.log10 if logarithmic else float
    first, last = widened(warp(min(xs)), warp(max(xs)), 0.02)

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = (warp(x) - first) / (last - first), (y - low) / (high - low)
        up = min(max(up, 0.0), 1.0)
        return (left + across * (width - left - right)) * SCALE, (
            height - bottom - up * (height - top - bottom)
        ) * SCALE

    for y in nice(low, high):
        draw.line(
            (place(min(xs), y)[0] - 4 * SCALE, place(min(xs), y)[1], (width - right) * SCALE, place(min(xs), y)[1]),
            "#dddddd",
            SCALE,
        )
        draw.text(((left - 8) * SCALE, place(min(xs), y)[1]), f"{y:g}", "black", small, anchor="rm")
    for x in powers(min(xs), max(xs)) if logarithmic else nice(first, last):
        draw.line((place(x, low)[0], top * SCALE, place(x, low)[0], (height - bottom) * SCALE), "#eeeeee", SCALE)
        draw.text((place(x, low)[0], (height - bottom + 6) * SCALE), f"{x:g}", "black", small, anchor="mt")
    draw.rectangle(
        (left * SCALE, top * SCALE, (width - right) * SCALE, (height - bottom) * SCALE), outline="#999999", width=SCALE
    )
    for number, (name, points) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        placed = [place(x, y) for x, y in points]
        draw.line(placed, colour, 2 * SCALE, joint="curve")
        for x, y in placed if marks else ():
            draw.ellipse((x - 3 * SCALE, y - 3 * SCALE, x + 3 * SCALE, y + 3 * SCALE), colour)
        row = (top + 10 + 17 * number) * SCALE
        draw.line((width * SCALE, row, (width + 16) * SCALE, row), colour, 3 * SCALE)
        draw.text(((width + 22) * SCALE, row), name, "black", small, anchor="lm")
    draw.text((left * SCALE, 7 * SCALE), " · ".join(filter(None, (title, y_label))), "black", font)
    draw.text(((left + width - right) / 2 * SCALE, (height - 18) * SCALE), x_label, "black", small, anchor="mm")
    return canvas


def beside(pictures: Sequence[Image.Image], columns: int = 2) -> Image.Image:
    """Pictures in rows of so many, on white."""
    rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    width = max(sum(picture.width for picture in row) for row in rows)
    canvas = Image.new("RGB", (width, sum(max(picture.height for picture in row) for row in rows)), "white")
    y = 0
    for row in rows:
        x = 0
        for picture in row:
            canvas.paste(picture, (x, y))
            x += picture.width
        y += max(picture.height for picture in row)
    return canvas
