import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion_lab.data.batches import EvaluationBatches, TrainingBatches


@given(count=st.integers(1, 60), world=st.integers(1, 4), part=st.integers(1, 5), seed=st.integers(0, 9))
def test_an_epoch_covers_each_picture_at_most_once_and_all_but_the_remainder(count, world, part, seed):
    batch_size = part * world
    if batch_size > count:
        return
    steps = count // batch_size
    ranks = [list(TrainingBatches(count, batch_size, seed, 0, 2 * steps, rank, world)) for rank in range(world)]
    for epoch in range(2):
        draws = [draw for rank in ranks for draw in rank[epoch * steps : (epoch + 1) * steps]]
        assert all(draw.epoch == epoch and len(draw.indices) == part for draw in draws)
        seen = torch.cat([draw.indices for draw in draws]).tolist()
        assert len(set(seen)) == len(seen) == steps * batch_size
        assert set(seen) <= set(range(count))


@given(count=st.integers(4, 40), start=st.integers(0, 30), more=st.integers(0, 30), world=st.sampled_from([1, 2, 4]))
def test_a_resumed_run_sees_what_is_left(count, start, more, world):
    whole = list(TrainingBatches(count, 4, 7, 0, start + more, 0, world))
    resumed = TrainingBatches(count, 4, 7, start, start + more, 0, world)
    assert len(resumed) == start + more  # Lightning counts from the run's beginning
    rest = list(resumed)
    assert [draw.epoch for draw in rest] == [draw.epoch for draw in whole[start:]]
    assert all(torch.equal(a.indices, b.indices) for a, b in zip(rest, whole[start:], strict=True))


@given(count=st.integers(4, 40), world=st.sampled_from([1, 2, 4]), stop=st.integers(1, 20))
def test_ranks_together_draw_the_batch_of_one_device(count, world, stop):
    single = TrainingBatches(count, 4, 3, 0, stop)
    ranks = [TrainingBatches(count, 4, 3, 0, stop, rank, world) for rank in range(world)]
    for alone, *parts in zip(single, *ranks, strict=True):
        assert torch.equal(torch.stack([part.indices for part in parts], dim=1).flatten(), alone.indices)


def test_epochs_and_seeds_shuffle_anew():
    orders = [
        torch.cat([draw.indices for draw in TrainingBatches(64, 8, seed, start, start + 8)]).tolist()
        for seed, start in ((0, 0), (0, 8), (1, 0))
    ]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(64))


def test_every_position_is_as_likely():
    firsts = [next(iter(TrainingBatches(10, 1, seed, 0, 1))).indices.item() for seed in range(2000)]
    counts = torch.bincount(torch.tensor(firsts), minlength=10)
    assert (counts - 200).abs().max() < 4 * (2000 * 0.1 * 0.9) ** 0.5


@pytest.mark.parametrize(
    ("count", "batch_size", "world", "says"),
    [
        (5, 6, 1, r"data\.batch_size=6 cannot be filled from 5 training pictures; set it to 1\.\.5"),
        (5, 0, 1, r"data\.batch_size=0 cannot"),
        (9, 6, 4, r"data\.batch_size=6 .* cannot be divided over 4; set it to a multiple of 4"),
    ],
)
def test_batches_that_cannot_be_are_one_sentence(count, batch_size, world, says):
    with pytest.raises(ValueError, match=says):
        TrainingBatches(count, batch_size, 0, 0, 1, 0, world)


@given(count=st.integers(0, 70), batch_size=st.integers(1, 9), world=st.integers(1, 5))
def test_evaluation_covers_each_picture_exactly_once(count, batch_size, world):
    ranks = [EvaluationBatches(count, batch_size, rank, world) for rank in range(world)]
    batches = [list(rank) for rank in ranks]
    assert [len(rank) for rank in ranks] == [len(rank) for rank in batches]
    assert all(1 <= len(batch) <= batch_size for rank in batches for batch in rank)
    assert sorted(index for rank in batches for batch in rank for index in batch.tolist()) == list(range(count))
