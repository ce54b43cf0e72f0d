"""Words of many numbers at once, beside NumPy's of one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_lab.data.words import words


@given(
    st.integers(1, 12),
    st.lists(st.integers(0, 2**130), max_size=6),
    st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=5),
)
def test_words_are_those_of_seed_sequence(count: int, shared: list[int], numbers: list[int]) -> None:
    made = words(count, tuple(shared), np.array(numbers))
    known = [np.random.SeedSequence((*shared, each)).generate_state(count, np.uint64) >> 1 for each in numbers]
    assert made.dtype == np.int64
    assert np.array_equal(made, np.array(known).astype(np.int64))


@pytest.mark.parametrize("number", [-1, 2**32])
def test_a_number_of_more_than_one_word_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match=r"must be in \[0, 2\^32\), got"):
        words(1, (0,), np.array([3, number]))
