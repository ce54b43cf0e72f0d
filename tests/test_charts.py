import numpy as np
import pytest
from PIL import Image, ImageColor

from diffusion_lab.charts import COLOURS, SCALE, beside, chart


def has(picture: Image.Image, colour: str) -> int:
    """Pixels of exactly that colour."""
    return int((np.asarray(picture) == ImageColor.getrgb(colour)).all(axis=2).sum())


@pytest.mark.parametrize("logarithmic", [False, True])
def test_every_series_is_drawn_in_its_colour(logarithmic: bool) -> None:
    lines = {"rising": [(10, 1.0), (100, 2.0), (250, 3.0)], "flat": [(10, 2.0), (250, 2.0)]}
    picture = chart(lines, "calls", "FID", logarithmic=logarithmic, size=(300, 200))
    assert picture.height == 200 * SCALE
    assert picture.width > 300 * SCALE  # the legend stands beside
    assert has(picture, COLOURS[0]) > 400
    assert has(picture, COLOURS[1]) > 400
    assert has(picture, COLOURS[2]) == 0


def test_one_point_and_equal_values_have_a_chart_too() -> None:
    assert has(chart({"alone": [(3, 5.0)]}, "x", "y"), COLOURS[0]) > 0


def test_pictures_stand_in_rows() -> None:
    pictures = [Image.new("RGB", (10, 5 + i), COLOURS[i]) for i in range(3)]
    together = beside(pictures, columns=2)
    assert together.size == (20, 6 + 7)
    assert [has(together, COLOURS[i]) for i in range(3)] == [50, 60, 70]
