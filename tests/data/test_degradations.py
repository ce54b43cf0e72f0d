import io
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from diffusion_lab.data.degradations import (
    either,
    enlarged,
    jpeg,
    luma,
    noisy,
    noisy_reduced,
    reduced,
    shrunk,
    unchanged,
)
from diffusion_lab.data.examples import degradation_keys, windows

ALL = [luma, jpeg, reduced, noisy, partial(noisy_reduced, factor=2, noise=0.2, blur=1.0, shade=0.1)]


def pictures(count: int = 3, side: int = 16, seed: int = 0) -> Tensor:
    return torch.randint(
        0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def smooth(side: int = 32) -> Tensor:
    coarse = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    large = np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))
    return torch.from_numpy(large.copy()).permute(2, 0, 1)[None]


def everywhere(pixels: Tensor) -> Tensor:
    return torch.ones_like(pixels[:, :1], dtype=torch.bool)


def pil(pixels: Tensor) -> Image.Image:
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("degrade", ALL)
def test_what_is_drawn_follows_from_the_key_and_the_rest_is_the_picture(degrade) -> None:
    pixels, region = pictures(4), torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(1)) < 0.5
    together = degrade(pixels, region, [5, 6, 7, 5])
    assert together.dtype == torch.uint8
    assert torch.equal(torch.where(region, pixels, together), pixels)
    assert not torch.equal(together, pixels)
    for i, key in enumerate([5, 6, 7, 5]):
        assert torch.equal(degrade(pixels[i : i + 1], region[i : i + 1], [key])[0], together[i])


def test_luma_is_pillows_for_every_kind_of_colour() -> None:
    pixels = pictures(1, 256)
    assert np.array_equal(luma(pixels, everywhere(pixels), [0])[0, 0].numpy(), np.asarray(pil(pixels[0]).convert("L")))


def test_jpeg_is_what_the_file_holds_and_every_quality_is_drawn_alike() -> None:
    pixels = smooth()
    file = io.BytesIO()
    pil(pixels[0]).save(file, "JPEG", quality=7)
    kept = np.asarray(Image.open(file))
    assert np.array_equal(jpeg(pixels, everywhere(pixels), [3], (7, 7))[0].permute(1, 2, 0).numpy(), kept)
    qualities = {jpeg(pixels, everywhere(pixels), [0], (q, q)).numpy().tobytes(): q for q in (5, 6, 7)}
    drawn = Counter(qualities[jpeg(pixels, everywhere(pixels), [key], (5, 7)).numpy().tobytes()] for key in range(600))
    assert all(150 < drawn[q] < 250 for q in (5, 6, 7))  # 200 +- 4 standard deviations


@pytest.mark.parametrize("quality", [(0, 5), (30, 5), (5, 96)])
def test_qualities_that_are_none_are_said(quality: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="quality must be in"):
        jpeg(pictures(1), everywhere(pictures(1)), [0], quality)


def test_reduced_is_pillows_box_and_bicubic() -> None:
    pixels = smooth(32) // 2 + 64  # nothing overshoots, which Pillow would cut twice and we once
    small = pil(pixels[0]).reduce(4)
    assert np.abs(np.asarray(small).astype(int) - shrunk(pixels, 4)[0].permute(1, 2, 0).numpy()).max() <= 1
    large = np.asarray(pil(shrunk(pixels, 4)[0]).resize((32, 32), Image.Resampling.BICUBIC)).astype(int)
    given_picture = reduced(pixels, everywhere(pixels), [0], [4])[0].permute(1, 2, 0).numpy()
    assert np.abs(large - given_picture).max() <= 1


def test_a_factor_of_one_changes_nothing_and_an_unfit_one_is_said() -> None:
    pixels = pictures()
    assert torch.equal(noisy_reduced(pixels, everywhere(pixels), [0, 1, 2], factor=1), pixels)
    with pytest.raises(ValueError, match="cannot be made 5 times smaller"):
        reduced(pixels, everywhere(pixels), [0, 1, 2], [5])


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 4), st.integers(0, 4))
def test_a_window_of_the_degraded_is_the_degraded_window(row: int, column: int) -> None:
    """Away from its border, where the enlargement has not all of its neighbours; at places that share the squares."""
    pixels, side, border = pictures(1, 64), 32, 8
    window = (..., slice(8 * row, 8 * row + side), slice(8 * column, 8 * column + side))
    whole = reduced(pixels, everywhere(pixels), [0], [4])[window]
    alone = reduced(pixels[window], everywhere(pixels[window]), [0], [4])
    inside = (..., slice(border, -border), slice(border, -border))
    assert (whole[inside].int() - alone[inside].int()).abs().max() <= 1


def test_noise_has_the_deviation_that_was_asked_for() -> None:
    grey = torch.full((8, 3, 64, 64), 128, dtype=torch.uint8)
    added = noisy(grey, everywhere(grey), range(8), (20.0, 20.0)).double() - 128
    assert added.std().item() == pytest.approx(20, rel=0.02)
    assert added.mean().item() == pytest.approx(0, abs=0.4)
    deviations = noisy(grey, everywhere(grey), range(8), (10.0, 30.0)).double().std(dim=(1, 2, 3))
    assert deviations.min() > 9
    assert deviations.max() < 31
    assert deviations.std() > 2


def test_either_restores_whole_pictures_and_leaves_holes_alone() -> None:
    pixels = smooth().expand(300, -1, -1, -1)
    holes = everywhere(pixels).clone()
    holes[:100, :, 5] = False
    result = either(pixels, holes, range(300), [luma, unchanged])
    assert torch.equal(result[:100], pixels[:100])
    grey = (result[100:] == luma(pixels[100:], holes[100:], range(200))).flatten(1).all(1)
    same = (result[100:] == pixels[100:]).flatten(1).all(1)
    assert bool((grey ^ same).all())
    assert 70 < int(grey.sum()) < 130  # 100 +- 4 standard deviations


def test_windows_lie_anywhere_within_the_picture() -> None:
    numbered = torch.arange(36, dtype=torch.uint8).reshape(1, 1, 6, 6).expand(1000, 3, 6, 6)
    cut = windows(numbered, 4, degradation_keys(range(1000)))
    assert cut.shape == (1000, 3, 4, 4)
    corners = Counter(cut[:, 0, 0, 0].tolist())
    assert set(corners) == {0, 1, 2, 6, 7, 8, 12, 13, 14}
    assert all(70 < count < 155 for count in corners.values())  # 111 +- 4 standard deviations
    assert torch.equal(cut[0], numbered[0, :, corner_of(cut)[0] :, corner_of(cut)[1] :][:, :4, :4])
    with pytest.raises(ValueError, match="larger than the pictures"):
        windows(numbered, 7, [0] * 1000)


def corner_of(cut: Tensor) -> tuple[int, int]:
    return divmod(int(cut[0, 0, 0, 0]), 6)


def test_enlarging_keeps_a_flat_picture_flat() -> None:
    flat = torch.full((1, 3, 4, 4), 77, dtype=torch.uint8)
    assert torch.equal(enlarged(flat, 8), torch.full((1, 3, 32, 32), 77, dtype=torch.uint8))


def test_a_square_that_is_known_in_part_has_the_mean_of_what_is_known() -> None:
    region = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    region[..., 1:, :] = True  # of the upper squares one row is known, of the lower ones nothing
    pixels = torch.where(region, 200, 90).to(torch.uint8).expand(1, 3, 4, 4)
    given = noisy_reduced(pixels, region, [0], factor=2)
    expected = enlarged(torch.tensor([[90, 90], [200, 200]], dtype=torch.uint8).expand(1, 3, 2, 2), 2)
    assert torch.equal(given, torch.where(region, expected, pixels))


def test_a_shade_is_one_number_for_each_colour_of_the_hole() -> None:
    pixels = torch.full((200, 3, 4, 4), 128, dtype=torch.uint8)
    given = noisy_reduced(pixels, everywhere(pixels), range(200), factor=2, shade=0.1).float()
    assert torch.equal(given, given[..., :1, :1].expand_as(given))
    assert given[:, :, 0, 0].std() == pytest.approx(12.75, rel=0.1)


def test_blur_is_a_gaussian_between_none_and_the_most() -> None:
    pixels = torch.zeros(400, 3, 9, 9, dtype=torch.uint8)
    pixels[..., 4, 4] = 255
    peaks = noisy_reduced(pixels, everywhere(pixels), range(400), factor=1, blur=2.0)[:, 0, 4, 4].double() / 255
    # At the deviation s of 1 and more, a Gaussian's peak is 1 / (2 pi s^2); half of the draws are beyond 1.
    assert peaks.median() == pytest.approx(1 / (2 * torch.pi), rel=0.15)
    assert 0.9 / (8 * torch.pi) < peaks.min() < 1.2 / (8 * torch.pi)
    assert peaks.max() == 1
