"""Masks painted with a brush. Lengths are fractions of the picture's side; papers give them in pixels of 256."""

import math
from itertools import islice
from math import cos, sin

from PIL import ImageDraw
from torch import Generator, Tensor

from diffusion_lab.data.masks.drawing import normals, sheet, uniforms, whole_number


def free_form(
    size: int,
    generator: Generator,
    strokes: tuple[int, int] = (1, 3),
    vertices: tuple[int, int] = (4, 12),
    width: tuple[float, float] = (12 / 256, 40 / 256),
) -> Tensor:
    """Zigzag strokes of a round brush: algorithm 1 of DeepFillv2 (Yu et al. 2019), with its implementations' values.

    Covers about 17 % of the picture on average, at most half of it.

    Args:
        size: side of the mask in pixels.
        generator: source of randomness.
        strokes: least and largest number of strokes.
        vertices: least and largest number of vertices of a stroke.
        width: least and largest width of the brush.
    """
    page = sheet(size)
    draw = page.cleared()
    mean_angle, angle_range = 2 * math.pi / 5, 2 * math.pi / 15
    mean_length = math.sqrt(2) / 8  # an eighth of the diagonal
    longest = 2 * mean_length
    u = uniforms(3 + strokes[1] * (6 + vertices[1]), generator)
    normal = normals(strokes[1] * vertices[1], generator)
    right, down = (
        1 if next(u) < 0.5 else -1 for _ in range(2)
    )  # the algorithm flips the finished mask; this is the same
    for _ in range(whole_number(*strokes, next(u))):
        x, y = next(u), next(u)
        smallest, largest = mean_angle - next(u) * angle_range, mean_angle + next(u) * angle_range
        between = largest - smallest
        brush = width[0] + (width[1] - width[0]) * next(u)
        points, forth = [(x, y)], down
        count = whole_number(*vertices, next(u))
        for place, size_of_step in zip(islice(u, count), islice(normal, count), strict=True):
            forth = -forth  # and back
            angle = smallest + between * place
            length = mean_length * (1 + size_of_step / 2)
            length = 0 if length < 0 else longest if length > longest else length
            x += right * length * cos(angle)
            y += forth * length * sin(angle)
            x = 0 if x < 0 else 1 if x > 1 else x
            y = 0 if y < 0 else 1 if y > 1 else y
            points.append((x, y))
        paint(draw, size, points, brush)
    return page.mask()


def paint(draw: ImageDraw.ImageDraw, size: int, points: list[tuple[float, float]], width: float) -> None:
    """Draw a line of round joints and ends through points in [0, 1]; never nothing, however thin."""
    pixels = [(x * size - 0.5, y * size - 0.5) for x, y in points]
    wide = max(1, round(width * size))
    draw.line(pixels, fill=1, width=wide)
    radius = (wide - 1) / 2
    if radius > 0.5:
        for x, y in pixels:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1)
    draw.point((int(points[0][0] * (size - 1)), int(points[0][1] * (size - 1))), fill=1)
