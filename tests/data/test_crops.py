import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from diffusion_lab.data.crops import Crop, center140, center148, ddim128, full


@pytest.mark.parametrize(
    ("crop", "box"),
    [
        (center140(), (19, 39, 159, 179)),
        (center148(), (15, 35, 163, 183)),
        (ddim128(), (25, 57, 153, 185)),  # rows 121-64..121+64, columns 89-64..89+64 of ermongroup/ddim
        (full(), (0, 20, 178, 198)),
    ],
)
def test_box_on_celeba(crop, box):
    assert crop.box(178, 218) == box
    pixels = np.random.default_rng(0).integers(0, 256, (218, 178, 3), dtype=np.uint8)
    left, top, right, bottom = box
    assert np.array_equal(crop(Image.fromarray(pixels)), pixels[top:bottom, left:right])


@given(st.integers(1, 500), st.integers(1, 500))
def test_full_is_the_largest_centred_square(width, height):
    left, top, right, bottom = full().box(width, height)
    assert right - left == bottom - top == min(width, height)
    assert 0 <= (width - right) - left <= 1
    assert 0 <= (height - bottom) - top <= 1


@pytest.mark.parametrize("crop", [center140(), center148(), ddim128()])
def test_too_small_a_picture_is_one_sentence(crop):
    with pytest.raises(
        ValueError, match=rf"The crop {crop.name} does not fit into a picture of 139x600 pixels; .*full"
    ):
        crop.box(139, 600)


def test_names_are_the_functions():
    assert [crop.name for crop in (center140(), center148(), ddim128(), full())] == [
        "center140",
        "center148",
        "ddim128",
        "full",
    ]
    assert Crop("mine", 10).box(20, 20) == (5, 5, 15, 15)


@pytest.mark.parametrize("crop", [center140(), center148(), ddim128()])
def test_all_crops_say_of_the_same_places_that_they_are_the_eyes(crop):
    """In CelebA's picture, halfway between its eyes, 40 apart, and those of the built-in faces, 45.5 apart."""
    left, top, *_ = crop.box(178, 218)
    assert crop.eyes is not None
    assert np.allclose(np.add(crop.eyes, (left, top)), [[67.5, 112.4], [110.5, 112.4]])
    assert full().eyes is None
