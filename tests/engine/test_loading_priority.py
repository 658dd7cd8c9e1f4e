"""Loading is done by threads that give way; those that answer later are as important as ever."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from transom import kernels
from transom.engine.loading_priority import NICENESS, at_low_priority
from transom.errors import WeightsError


def own_niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def threads_by_niceness() -> dict[int, set[int]]:
    """Native ids of this process's threads."""
    found: dict[int, set[int]] = {}
    for task in Path("/proc/self/task").iterdir():
        found.setdefault(os.getpriority(os.PRIO_PROCESS, int(task.name)), set()).add(int(task.name))
    return found


def test_the_work_and_its_pool_give_way_and_the_next_pool_does_not() -> None:
    usual = own_niceness()
    seen: list[tuple[int, int]] = []

    def work() -> str:
        seen.append((own_niceness(), len(threads_by_niceness()[own_niceness()])))
        return "done"

    num_before = kernels.num_threads()
    try:
        assert at_low_priority(work, num_threads=3) == "done"
        [(niceness, num_nice_threads)] = seen
        assert niceness == min(usual + NICENESS, 19)
        assert num_nice_threads == 3, "the calling thread is one of the pool"
        assert own_niceness() == usual
        assert kernels.num_threads() == 3
        assert usual + NICENESS not in threads_by_niceness()
    finally:
        kernels.set_num_threads(num_before)


def test_what_goes_wrong_comes_out(tmp_path: Path) -> None:
    def work() -> None:
        raise WeightsError(f"{tmp_path}: damaged")

    num_before = kernels.num_threads()
    with pytest.raises(WeightsError, match="damaged"):
        at_low_priority(work, num_threads=1)
    kernels.set_num_threads(num_before)
