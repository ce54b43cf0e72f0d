"""How long tests wait: what they assert is what happens, and not how soon on a busy machine."""

import time
from collections.abc import Callable

PATIENCE = 300.0
"""Seconds after which something will not come at all."""


def until(true: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Waits for something to become true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.002)
