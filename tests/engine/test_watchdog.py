"""A worker that is stopped or stuck is found; one that computes or waits for its disk is not disturbed."""

from __future__ import annotations

import os

from transom.engine.watchdog import Watchdog, WatchLimits, start_beating

LIMITS = WatchLimits(silent=7.0, silent_at_work=60.0, silent_loading=60.0, stuck=300.0)


class Watched:
    """A watchdog that is asked once a second, by a clock of its own."""

    def __init__(self, *, is_loaded: bool = True) -> None:
        self.now = 0.0
        self.processor = 0.0
        self.watchdog = Watchdog(LIMITS, clock=lambda: self.now)
        if is_loaded:
            self.watchdog.take_ready()

    def seconds_until_complaint(self, limit: int, *, beats: bool, processor: float = 0.0, work: bool = True) -> int:
        """Whole seconds; `limit` when there is none. `processor` is used in each of them."""
        for second in range(1, limit + 1):
            self.now += 1.0
            self.processor += processor
            if beats:
                self.watchdog.take_beat()
            if self.watchdog.complaint(has_work=work, processor_seconds=self.processor) is not None:
                return second
        return limit


def test_a_process_that_does_not_beat_is_given_up_within_ten_seconds() -> None:
    assert Watched().seconds_until_complaint(100, beats=False, work=False) == 7


def test_a_process_that_computes_without_beating_gets_a_minute() -> None:
    assert Watched().seconds_until_complaint(100, beats=False, processor=0.01) == 60


def test_while_it_loads_it_may_be_silent_for_longer() -> None:
    assert Watched(is_loaded=False).seconds_until_complaint(100, beats=False) == 60


def test_a_step_that_computes_for_an_hour_is_left_alone() -> None:
    assert Watched().seconds_until_complaint(3600, beats=True, processor=0.5) == 3600


def test_a_slow_step_on_a_crowded_machine_is_left_alone() -> None:
    assert Watched().seconds_until_complaint(3600, beats=True, processor=0.01) == 3600


def test_a_worker_with_work_that_does_nothing_at_all_is_stuck() -> None:
    assert Watched().seconds_until_complaint(1000, beats=True, processor=0.0001) == 300


def test_a_worker_without_work_may_do_nothing() -> None:
    assert Watched().seconds_until_complaint(3600, beats=True, work=False) == 3600


def test_a_wait_for_a_disk_is_shorter_than_being_stuck() -> None:
    watched = Watched()
    for _ in range(20):
        assert watched.seconds_until_complaint(200, beats=True) == 200
        watched.watchdog.take_message()


def test_a_pause_of_this_process_says_nothing_of_the_worker() -> None:
    watched = Watched()
    watched.now += 1000.0
    assert watched.watchdog.complaint(has_work=True, processor_seconds=0.0) is None


def test_the_thread_beats_as_long_as_somebody_reads() -> None:
    reader, writer = os.pipe()
    start_beating(writer)
    assert os.read(reader, 1) == b"."
    os.close(reader)
