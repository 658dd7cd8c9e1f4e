"""Restarts: slower each time, quick again after a healthy life, and not for ever."""

from __future__ import annotations

from transom.engine.restarts import WINDOW_SECONDS, RestartLimit


def test_restarts_in_a_row_wait_longer_and_longer() -> None:
    limit = RestartLimit((1.0, 2.0, 3.0), max_restarts=5)
    assert [limit.next_delay(now) for now in range(5)] == [1.0, 2.0, 3.0, 3.0, 3.0]


def test_too_many_restarts_in_the_window_are_a_crash_loop() -> None:
    limit = RestartLimit((1.0,), max_restarts=2)
    assert limit.next_delay(0.0) == limit.next_delay(10.0) == 1.0
    assert limit.next_delay(WINDOW_SECONDS - 1.0) is None
    assert limit.next_delay(WINDOW_SECONDS) == 1.0
    assert limit.next_delay(WINDOW_SECONDS + 1.0) is None


def test_a_healthy_life_makes_the_next_restart_quick() -> None:
    limit = RestartLimit((1.0, 2.0, 3.0))
    limit.next_delay(0.0)
    limit.worker_lived(5.0)
    assert limit.next_delay(10.0) == 2.0
    limit.worker_lived(60.0)
    assert limit.next_delay(100.0) == 1.0
