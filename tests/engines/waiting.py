"""Waiting for a state, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_for(ready: Callable[[], object], told: Callable[[], str], seconds: float = 420) -> None:
    """`told` is what a person needs to know where it never comes: the end of a log."""
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, told()[-8000:]
        time.sleep(0.3)
