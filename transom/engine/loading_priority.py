"""Loading a model leaves the processor to those who answer: weights are read and packed by threads of low priority.

Linux keeps the priority of each thread by itself, and who lowers it may not raise it again. So the work is done by a
thread made for it, and the native pool, whose threads have the priority of their maker, is made anew before and after.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from transom import kernels

Result = TypeVar("Result")

NICENESS = 5
"""Added while loading: beside a thread that computes all the time, a loading one gets a quarter of a core."""
_HIGHEST = 19


def at_low_priority(work: Callable[[], Result], num_threads: int) -> Result:
    """What `work` returns or raises; it runs in another thread, with a native pool of `num_threads`, both nice."""

    def nicely() -> Result:
        thread = threading.get_native_id()
        niceness = min(os.getpriority(os.PRIO_PROCESS, thread) + NICENESS, _HIGHEST)
        with suppress(OSError):  # where a sandbox forbids it, loading is as important as answering
            os.setpriority(os.PRIO_PROCESS, thread, niceness)
        _renew_pool(num_threads)
        return work()

    try:
        with ThreadPoolExecutor(1, thread_name_prefix="loading") as executor:
            return executor.submit(nicely).result()
    finally:
        _renew_pool(num_threads)


def _renew_pool(num_threads: int) -> None:
    """Threads of the caller's priority."""
    kernels.set_num_threads(1)
    kernels.set_num_threads(num_threads)
