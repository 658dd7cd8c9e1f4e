"""The clock of quotas."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], float]
"""Seconds since the epoch; never goes backwards."""


def steady_wall_clock() -> Clock:
    """What the system's clock says now and, from now on, a clock that nobody sets and that runs while the machine
    sleeps."""
    offset = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return lambda: offset + time.clock_gettime(time.CLOCK_BOOTTIME)
