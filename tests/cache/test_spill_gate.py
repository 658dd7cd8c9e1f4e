"""When writing to a disk stops, and when it is tried again."""

from __future__ import annotations

import errno
from dataclasses import dataclass

import pytest

from transom.cache import TierState
from transom.cache.spill_gate import BROKEN_DISK_SECONDS, FULL_DISK_SECONDS, SpillGate


@dataclass
class Clock:
    """Goes when it is told to."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_gate_is_open_at_first() -> None:
    gate = SpillGate(Clock())
    assert (gate.state, gate.num_closed) == (TierState.ON, 0)


def test_a_full_disk_that_took_bytes_back_may_be_written_but_is_still_called_full() -> None:
    gate = SpillGate(Clock())
    for num_closed in (1, 2):
        gate.note(errno.ENOSPC)
        assert (gate.state, gate.is_open, gate.num_closed) == (TierState.PAUSED, False, num_closed)
        gate.note_room()
        assert (gate.state, gate.is_open) == (TierState.PAUSED, True)


def test_a_broken_disk_is_left_alone_whatever_it_took_back() -> None:
    gate = SpillGate(Clock())
    for _ in range(3):
        gate.note(errno.EIO)
    gate.note_room()
    assert (gate.state, gate.is_open) == (TierState.OFF, False)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_pauses_spilling_for_half_a_minute(error: int) -> None:
    clock = Clock()
    gate = SpillGate(clock)
    gate.note(error)
    states = []
    for seconds in (0.0, FULL_DISK_SECONDS - 0.1, 0.2):
        clock.now += seconds
        states.append(gate.state)
    assert states == [TierState.PAUSED, TierState.PAUSED, TierState.ON]
    assert gate.num_closed == 1


def test_two_errors_of_the_disk_change_nothing_and_the_third_turns_it_off() -> None:
    clock = Clock()
    gate = SpillGate(clock)
    gate.note(errno.EIO)
    gate.note(errno.EIO)
    assert gate.is_open
    gate.note(-1)
    states = []
    for seconds in (0.0, BROKEN_DISK_SECONDS - 0.1, 0.2):
        clock.now += seconds
        states.append(gate.state)
    assert states == [TierState.OFF, TierState.OFF, TierState.ON]


def test_errors_that_are_far_apart_change_nothing() -> None:
    clock = Clock()
    gate = SpillGate(clock)
    for _ in range(10):
        gate.note(errno.EIO)
        clock.now += 6.0
    assert gate.is_open


def test_a_disk_that_is_off_is_not_made_better_by_being_full() -> None:
    gate = SpillGate(Clock())
    for _ in range(3):
        gate.note(errno.EIO)
    gate.note(errno.ENOSPC)
    assert gate.state is TierState.OFF
    assert gate.num_closed == 1
