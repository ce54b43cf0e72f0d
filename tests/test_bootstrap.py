import numpy as np
import pytest

from diffusion_lab.bootstrap import contrasts, interval, intervals


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    """The percentile bootstrap of 100 normal values: 95 % within four standard errors of 200 draws."""
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        low, high = interval(generator.normal(0.3, 1, 100), 0.95)
        hits += low <= 0.3 <= high
    assert abs(hits / 200 - 0.95) < 4 * (0.05 * 0.95 / 200) ** 0.5


def test_columns_see_the_same_draws_as_one_alone() -> None:
    values = np.random.default_rng(1).exponential(size=(37, 3))
    together = intervals(values)
    np.testing.assert_allclose(together, [interval(column) for column in values.T], rtol=1e-12)
    assert intervals(values).tolist() == together.tolist()  # no chance is left


def test_the_interval_is_the_bootstraps() -> None:
    """Resampled one by one; the ends of a mean of 9 values scatter by about 1 % over 10,000 draws."""
    values = np.arange(9.0) ** 2
    generator = np.random.default_rng(5)
    means = [generator.choice(values, 9).mean() for _ in range(10_000)]
    assert interval(values, 0.9) == pytest.approx(tuple(np.quantile(means, [0.05, 0.95])), rel=0.05)


def test_sums_over_what_each_picture_brings() -> None:
    """A picture that brings two of something is drawn as a whole, and one that brings none counts for nothing."""
    counts = np.array([[1.0], [2.0], [0.0], [1.0]])
    assert intervals(3 * counts, counts=counts)[0].tolist() == [3, 3]
    ones = np.ones((30, 1))
    values = np.random.default_rng(0).normal(size=(30, 1))
    np.testing.assert_allclose(intervals(values, counts=ones), intervals(values), rtol=1e-12)


def test_the_contrast_of_two_groups_covers_its_truth() -> None:
    """Means of 40 and of 60 pictures: the interval's width is that of the two means' errors together."""
    generator = np.random.default_rng(0)
    members = np.arange(100) < 40
    misses, widths = 0, []
    for _ in range(100):
        values = generator.normal(0, 1, (100, 1)) + 0.5 * members[:, None]
        low, high = contrasts(values, members[:, None])[0, 0]
        misses += not low <= 0.5 <= high
        widths.append((high - low) / 2)
    assert misses <= 12  # of 5 in the mean
    assert np.mean(widths) == pytest.approx(1.96 * np.sqrt(1 / 40 + 1 / 60), rel=0.05)


def test_contrasts_of_several_groups_are_those_of_each_alone() -> None:
    """And what is constant within a group and outside it differs for certain."""
    values = np.random.default_rng(0).normal(0, 1, (30, 2))
    members = np.stack([np.arange(30) % 3 == 0, np.arange(30) < 15], axis=1)
    together = contrasts(values, members)
    assert together.shape == (2, 2, 2)
    for group in (0, 1):
        for column in (0, 1):
            alone = contrasts(values[:, [column]], members[:, [group]])
            assert together[group, column] == pytest.approx(alone[0, 0], rel=1e-9)
    assert contrasts(np.where(members[:, :1], 2.0, 0.5), members[:, :1]).tolist() == [[[1.5, 1.5]]]
