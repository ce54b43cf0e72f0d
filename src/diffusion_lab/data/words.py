"""Random words for many numbers at once, each a function of its entropy alone: `numpy.random.SeedSequence` by rows."""

import numpy as np
from numpy.typing import NDArray

INIT_A, MULTIPLY_A, INIT_B, MULTIPLY_B = 0x43B0D7E5, 0x931E8875, 0x8B51F9DD, 0x58F38DED
LEFT, RIGHT = np.uint32(0xCA01F9DD), np.uint32(0x4973F715)
HALF = np.uint32(16)
POOL = 4
"""Words that the entropy is mixed in."""

Words = NDArray[np.uint32]


def words(count: int, shared: tuple[int, ...], numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """The words that `SeedSequence((*shared, number))` makes, halved: ``(B, count)`` in [0, 2^63).

    SeedSequence takes 10 us for each, most of it to be made; the hash is O'Neill's `seed_seq` (pcg-random.org, "C++
    seeding surprises"), as NumPy promises to keep it.

    Args:
        count: words of each.
        shared: non-negative, what all have in front.
        numbers: ``(B,)`` in [0, 2^32).

    Raises:
        ValueError: if a number is outside of that, which would be more than one word.
    """
    if numbers.size and not (numbers.min() >= 0 and numbers.max() < 2**32):
        raise ValueError(f"numbers must be in [0, 2^32), got {numbers.min()} to {numbers.max()}")
    front = [part for number in shared for part in _parts(number)]
    entropy = np.zeros((max(POOL, len(front) + 1), len(numbers)), np.uint32)
    entropy[: len(front)] = np.array(front, np.uint32)[:, None]
    entropy[len(front)] = numbers
    keys = _keys(INIT_A, MULTIPLY_A, POOL * len(entropy) + 1)
    pool = _hashed(entropy[:POOL], keys[: POOL + 1])
    used = POOL
    for i in range(len(entropy)):
        others = [j for j in range(POOL) if j != i]
        source = pool[i] if i < POOL else entropy[i]
        hashed = _hashed(np.broadcast_to(source, (len(others), source.size)), keys[used : used + len(others) + 1])
        mixed = LEFT * pool[others] - RIGHT * hashed
        pool[others] = mixed ^ (mixed >> HALF)
        used += len(others)
    cycled = pool[np.arange(2 * count) % POOL]
    halves = _hashed(cycled, _keys(INIT_B, MULTIPLY_B, 2 * count + 1)).astype(np.uint64)
    return ((halves[1::2] << np.uint64(32) | halves[::2]) >> np.uint64(1)).astype(np.int64).T


def _parts(number: int) -> list[int]:
    """A number in words of 32 bits, the lowest first."""
    return [number >> i & 0xFFFF_FFFF for i in range(0, max(1, number.bit_length()), 32)]


def _keys(first: int, factor: int, count: int) -> Words:
    """What the hash goes through: first, first * factor, ..."""
    keys = [first]
    for _ in range(count - 1):
        keys.append(keys[-1] * factor & 0xFFFF_FFFF)
    return np.array(keys, np.uint32)[:, None]


def _hashed(values: Words, keys: Words) -> Words:
    """Each row ``(n, B)`` hashed by its key and the next one's."""
    made: Words = (values ^ keys[:-1]) * keys[1:]
    return made ^ (made >> HALF)
