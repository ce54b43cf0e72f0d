"""How far a mean over pictures may be trusted: the percentile bootstrap (Efron 1979).

Pictures are drawn again, with replacement and from a fixed seed: an interval is the same on every machine and on any
number of devices. It says how the figure would scatter over other pictures of the same kind. It does not say how it
would scatter over other trainings, which moves FID more.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
LEVEL = 0.95


def interval(values: NDArray[np.float64], level: float = LEVEL) -> tuple[float, float]:
    """Where the mean of ``(n,)`` values lies; of paired differences, how far apart two methods are.

    Args:
        values: of each picture.
        level: of confidence, such as .95.

    Example:
        >>> interval(np.full(50, 0.5), 0.95)
        (0.5, 0.5)
    """
    low, high = intervals(values[:, None], level)[0]
    return float(low), float(high)


def intervals(
    values: NDArray[np.float64], level: float = LEVEL, counts: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Lower and upper end ``(k, 2)`` of the mean of each column of ``(n, k)``; all columns see the same draws.

    Args:
        values: of each picture; with `counts`, sums over what each picture brings.
        level: of confidence.
        counts: ``(n, k)``, of how many each sum is; None: of one. A draw in which a column counts nothing is left out.
    """
    both = values if counts is None else np.concatenate([values, counts], axis=1)
    sums, k = np.concatenate(list(_drawn(both))), values.shape[1]
    with np.errstate(invalid="ignore"):
        means = sums / len(values) if counts is None else sums[:, :k] / sums[:, k:]
    return _ends(means, level)


def contrasts(values: NDArray[np.float64], members: NDArray[np.bool_], level: float = LEVEL) -> NDArray[np.float64]:
    """Ends ``(a, k, 2)`` of how far the mean of each column over a group of pictures lies above that over all others.

    All pictures are drawn together, so that groups vary in size as they would in other pictures of the kind; a draw
    without a member, or of members alone, is left out.

    Args:
        values: ``(n, k)`` of each picture.
        members: ``(n, a)``, who is of which group; of each some are, and some are not.
        level: of confidence.
    """
    (n, k), a = values.shape, members.shape[1]
    inside = members.astype(np.float64)
    of_members = (values[:, None, :] * inside[:, :, None]).reshape(n, a * k)
    differences = []
    for sums in _drawn(np.concatenate([values, of_members, inside], axis=1)):
        everybody, theirs, count = sums[:, None, :k], sums[:, k:-a].reshape(-1, a, k), sums[:, -a:, None]
        count = np.where((count > 0) & (count < n), count, np.nan)
        differences.append((theirs / count - (everybody - theirs) / (n - count)).reshape(-1, a * k))
    return _ends(np.concatenate(differences), level).reshape(a, k, 2)


def _drawn(values: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    """The sum of each column of ``(n, k)`` over the pictures of each draw, ``(draws, k)`` some draws at a time."""
    generator, n = np.random.default_rng(0), len(values)
    at_a_time = max(1, 1_000_000 // n)
    for start in range(0, RESAMPLES, at_a_time):
        count = min(at_a_time, RESAMPLES - start)
        drawn = generator.integers(0, n, (count, n)) + n * np.arange(count)[:, None]
        times = np.bincount(drawn.ravel(), minlength=count * n).reshape(count, n)  # each picture in each draw
        yield times @ values


def _ends(means: NDArray[np.float64], level: float) -> NDArray[np.float64]:
    ends: NDArray[np.float64] = np.nanquantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0).T
    return ends


def verdict(low: float, high: float, more_is_better: bool | None = False) -> str:
    """What the interval of a difference says: better, worse or inconclusive; where neither is better, more or less.

    Example:
        >>> verdict(0.1, 0.3), verdict(0.1, 0.3, more_is_better=True), verdict(-0.1, 0.3), verdict(0.1, 0.3, None)
        ('worse', 'better', 'inconclusive', 'more')
    """
    if low <= 0 <= high:
        return "inconclusive"
    if more_is_better is None:
        return "more" if low > 0 else "less"
    return "better" if (low > 0) == more_is_better else "worse"
