"""Windows over a large picture: they hold all of its hole, agree on the noise, and leave no seam."""

from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diffusion_lab.diffusion.noise import ExampleNoise
from diffusion_lab.windows import Windows, starts

SIZE = 16
CPU = torch.device("cpu")


def holes(data: st.DataObject, side: int, count: int) -> Tensor:
    masks = torch.zeros(count, 1, side, side, dtype=torch.bool)
    for mask in masks:
        for _ in range(data.draw(st.integers(0, 3))):
            top, left = data.draw(st.integers(0, side - 1)), data.draw(st.integers(0, side - 1))
            bottom, right = data.draw(st.integers(top + 1, side)), data.draw(st.integers(left + 1, side))
            mask[0, top:bottom, left:right] = True
    return masks


def covered(windows: Windows) -> Tensor:
    """How many windows lie over each pixel."""
    count = torch.zeros(len(windows.corners), windows.side, windows.side, dtype=torch.int)
    for picture, corners in zip(count, windows.corners, strict=True):
        for top, left in corners:
            picture[top : top + SIZE, left : left + SIZE] += 1
    return count


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([16, 32, 64]), st.data())
def test_they_hold_the_hole_and_stay_inside(side: int, data: st.DataObject) -> None:
    masks = holes(data, side, 3)
    windows = Windows.over(masks, SIZE)
    assert len(windows) == sum(map(len, windows.corners))
    assert bool((covered(windows) > 0)[masks[:, 0]].all())
    for mask, corners in zip(masks, windows.corners, strict=True):
        assert corners == Windows.over(mask[None], SIZE).corners[0]  # whatever its company
        for top, left in corners:
            assert 0 <= min(top, left) <= max(top, left) <= side - SIZE
            assert not bool(mask.any()) or bool(mask[0, top : top + SIZE, left : left + SIZE].any())
        assert len(corners) == 1 or bool(mask.any())
        assert len(corners) <= {16: 1, 32: 9, 64: 25}[side]


@settings(deadline=None)
@given(st.integers(0, 63), st.integers(0, 63))
def test_neighbours_overlap_evenly(one: int, other: int) -> None:
    held = torch.zeros(64, dtype=torch.bool)
    held[min(one, other) : max(one, other) + 1] = True
    found = starts(held, SIZE)
    steps = [after - before for before, after in pairwise(found)]
    assert all(0 < step <= SIZE - 2 for step in steps)
    assert max(steps, default=0) - min(steps, default=0) <= 1
    low, high = min(one, other), max(one, other) + 1
    assert found[0] <= max(low - 1, 0) or high - low > SIZE - 2  # a margin, where there is room
    assert found[-1] + SIZE >= high


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([16, 32, 64]), st.data())
def test_windows_that_agree_are_the_whole(side: int, data: st.DataObject) -> None:
    windows = Windows.over(holes(data, side, 2), SIZE)
    whole = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(side))
    count, joined = covered(windows)[:, None].expand_as(whole), windows.joined(windows.cut(whole))
    torch.testing.assert_close(joined[count > 0], whole[count > 0], atol=1e-6, rtol=1e-6)
    assert torch.equal(joined[count == 1], whole[count == 1])  # bit for bit
    assert bool((joined[count == 0] == 0).all())


def test_where_windows_differ_one_fades_into_the_other() -> None:
    mask = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
    mask[..., 5, 10:50] = True
    windows = Windows.over(mask, SIZE)
    (tops, lefts) = zip(*windows.corners[0], strict=True)
    assert len({*tops}) == 1
    levels = torch.arange(float(len(windows)))
    row = windows.joined(levels[:, None, None, None].expand(-1, 1, SIZE, SIZE))[0, 0, 5, lefts[0] : lefts[-1] + SIZE]
    assert (row[0], row[-1]) == (0, len(windows) - 1)
    assert bool((row.diff() >= -1e-6).all())
    assert float(row.diff().max()) <= 0.35  # over two pixels at least, and no step of 1


def test_what_is_no_number_stays_to_be_seen() -> None:
    mask = torch.ones(1, 1, 32, 32, dtype=torch.bool)
    windows = Windows.over(mask, SIZE)
    made = windows.cut(torch.zeros(1, 3, 32, 32))
    made[4, :, 8, 8] = torch.nan
    assert int(windows.joined(made).isnan().sum()) == 3


def test_noise_is_that_of_the_whole_picture() -> None:
    masks = torch.zeros(2, 1, 64, 64, dtype=torch.bool)
    masks[0, 0, 10:50, 10:50], masks[1, 0, 3, 3] = True, True
    windows = Windows.over(masks, SIZE)
    seen, whole = windows.noise([7, 8], 3, CPU), ExampleNoise([7, 8], (3, 64, 64))
    for _ in range(2):
        assert torch.equal(seen(), windows.cut(whole()))
    small, own = Windows.over(masks[..., :SIZE, :SIZE], SIZE), ExampleNoise([7, 8], (3, SIZE, SIZE))
    assert torch.equal(small.noise([7, 8], 3, CPU)(), own())
