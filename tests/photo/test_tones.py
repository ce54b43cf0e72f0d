"""Dark and faded photos are shown to a model as well-lit ones, and come back as they were."""

import math
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from diffusion_lab import photo
from diffusion_lab.data.crops import center148
from diffusion_lab.photo.tones import LEAST, MIDDLE, WIDTH, Tone, tone
from diffusion_lab.pictures import from_pil

SIDE = 48


def square(seed: int) -> tuple[Tensor, Tensor]:
    """Clouds of a little colour over all levels, and a hole of which nothing may be seen."""
    noise = torch.Generator().manual_seed(seed)
    grey, colour = torch.rand(1, 1, 6, 6, generator=noise), torch.rand(1, 3, 6, 6, generator=noise)
    coarse = (2.4 * (0.9 * grey + 0.1 * colour) - 1.2).clamp(-1, 1)
    hole = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    hole[:, 12:30, 12:30] = True
    return torch.nn.functional.interpolate(coarse, SIDE, mode="bilinear")[0], hole


def luminance(x: Tensor, hole: Tensor) -> np.ndarray:
    """Of the known pixels, black to white 0 to 1."""
    red, green, blue = (x.double()[:, ~hole[0]].numpy() + 1) / 2
    return np.asarray(0.299 * red + 0.587 * green + 0.114 * blue)


@given(st.integers(0, 99), st.floats(0.05, 0.3), st.floats(0, 1))
def test_however_it_was_lit_it_is_seen_the_same(seed: int, gain: float, place: float) -> None:
    """An affine change of all levels changes nothing: the tone undoes it, by its definition on other percentiles."""
    x, hole = square(seed)
    other = gain * x + (1 - gain) * (2 * place - 1)
    seen = tone(other, hole)
    assert seen != Tone()
    low, high = np.quantile(luminance(seen.lit(other), hole), [0.02, 0.98])
    assert math.isclose(high - low, WIDTH, abs_tol=0.01)
    assert math.isclose((high + low) / 2, MIDDLE, abs_tol=0.01)
    reference = 0.3 * x - 0.7
    torch.testing.assert_close(seen.lit(other), tone(reference, hole).lit(reference), atol=2e-4, rtol=0)
    plain = Tone(seen.gain, seen.offset)
    inside = seen.lit(other).abs() < 1
    torch.testing.assert_close(plain.unlit(seen.lit(other))[inside], other[inside], atol=1e-5, rtol=0)


def test_what_lies_in_the_hole_does_not_matter() -> None:
    x, hole = square(0)
    dark = 0.2 * x - 0.8
    assert tone(dark, hole) == tone(torch.where(hole, 1.0, dark), hole)


def test_ordinary_pictures_flat_ones_and_almost_nothing_are_left_alone() -> None:
    x, hole = square(0)
    low, high = np.quantile(luminance(x, hole), [0.02, 0.98])
    gain = LEAST / (high - low)
    assert tone(1.001 * gain * x, hole) == Tone()
    assert tone(0.999 * gain * x, hole) != Tone()
    assert tone(torch.full_like(x, -0.9), hole) == Tone()
    assert tone(0.2 * x, torch.ones_like(hole)) == Tone()


def test_a_hundred_known_pixels_tell_a_tone_and_fewer_do_not() -> None:
    x, _ = square(0)
    for known, told in ((100, True), (99, False)):
        hole = torch.ones(SIDE * SIDE, dtype=torch.bool)
        hole[torch.randperm(SIDE * SIDE, generator=torch.Generator().manual_seed(0))[:known]] = False
        assert (tone(0.2 * x, hole.view(1, SIDE, SIDE)) != Tone()) == told


def test_a_contrast_of_just_the_limit_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    grey, nothing = torch.full((3, SIDE, SIDE), -0.5), torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    grey[:, : SIDE // 2] = 0.25
    weights = torch.tensor([0.299, 0.587, 0.114])
    levels = ((torch.tensor([[-0.5] * 3, [0.25] * 3]) @ weights).double() + 1) / 2
    monkeypatch.setattr("diffusion_lab.photo.tones.LEAST", float(levels[1] - levels[0]))
    assert tone(grey, nothing) == Tone()


def test_what_gets_too_light_or_too_dark_is_cut_off() -> None:
    assert Tone(3.0, 0.5).lit(torch.tensor([-1.0, 0.1, 1.0])).tolist() == [-1.0, pytest.approx(0.8), 1.0]


@pytest.mark.parametrize(("black", "white"), [(0, 255), (0, 70), (120, 200)])
def test_a_photo_comes_back_as_it_was(black: int, white: int) -> None:
    """A model that paints what it is shown in the hole: the squares' own colours, of a picture that is smooth there."""
    x, _ = square(3)
    levels = ((x + 1) / 2 * (white - black) + black).round().to(torch.uint8)
    picture = Image.fromarray(levels.permute(1, 2, 0).numpy())
    hole = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    hole[:, 20:28, 20:28] = True
    cut = photo.cut(picture, hole, [SIDE], center148(), eyes=[np.array([[18.0, 20.0], [30.0, 20.0]])])
    dim = white - black < 255
    assert [tone == Tone() for tone in cut.tones] == [not dim]
    hidden = photo.hidden(np.asarray(picture), hole[0].numpy())  # what is shown in the hole
    plain = from_pil(Image.fromarray(cut.parts[0].frame.cut(hidden, SIDE)))
    if dim:
        assert float(cut.images.max() - cut.images.min()) > 1.2  # of 2: as wide as a well-lit one
    else:
        assert torch.equal(cut.images[0], plain)
    back = np.asarray(photo.paste(cut, cut.images))
    expected = np.asarray(photo.paste(replace(cut, tones=(Tone(),)), plain[None]))
    assert np.array_equal(back[~hole[0]], np.asarray(picture)[~hole[0]])
    assert np.abs(back.astype(int) - expected.astype(int)).max() <= 1


def test_a_tone_does_not_change_and_says_nothing_by_itself() -> None:
    assert Tone() == Tone(1.0, 0.0)
    with pytest.raises(FrozenInstanceError):
        Tone().gain = 2.0  # type: ignore[misc]
