"""A sliding window against the plainest model there is: a list of all that was ever charged."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transom.quotas.window import NUM_BUCKETS, Bucket, SlidingWindow

START = 1_700_000_000.0


def test_what_was_charged_counts_for_the_windows_length() -> None:
    window = SlidingWindow(100, 3600.0)
    window.charge(60, START)
    assert window.wait(40, START) == 0.0
    assert window.wait(41, START) >= 3600.0
    window.charge(40, START + 1800)
    assert window.used(START + 3599) == 100
    assert window.used(START + 3600 + 30) == 40
    assert window.used(START + 5400 + 30) == 0


def test_the_wait_is_exact() -> None:
    window = SlidingWindow(100, 1.0)
    for step in range(5):
        window.charge(20, START + step / 10)
    now = START + 0.5
    for amount in (1, 20, 21, 100):
        moment = now + window.wait(amount, now)
        assert window.wait(amount, moment + 1e-6) == 0.0
        assert window.wait(amount, moment - 1e-3) > 0.0
        assert now < moment <= now + 1.0 + 1 / NUM_BUCKETS


def test_more_than_the_limit_runs_alone_and_counts_for_longer() -> None:
    window = SlidingWindow(100, 1.0)
    bucket = window.charge(1000, START)
    assert 10.0 <= window.wait(1, START) <= 10.0 + 1 / NUM_BUCKETS
    window.correct(bucket, -990)
    assert window.wait(90, START) == 0.0
    assert window.wait(91, START) <= 1.0 + 1 / NUM_BUCKETS
    assert SlidingWindow(0.5, 1.0).wait(1, START) == 0.0


def test_a_correction_of_what_is_forgotten_changes_nothing() -> None:
    window = SlidingWindow(100, 1.0)
    bucket = window.charge(100, START)
    assert window.used(START + 2) == 0
    window.correct(bucket, -50)
    assert window.used(START + 2) == 0
    assert window.wait(100, START + 2) == 0.0


_AMOUNTS = st.integers(1, 150)
_PAUSES = st.one_of(st.floats(0, 0.05), st.floats(0, 1.2), st.just(0.0))


@given(st.lists(st.tuples(_PAUSES, _AMOUNTS), max_size=40), st.sampled_from([1.0, 3600.0]))
def test_no_interval_of_the_windows_length_holds_more_than_the_limit(
    schedule: list[tuple[float, int]], seconds: float
) -> None:
    window, now = SlidingWindow(100, seconds), START
    admitted: list[tuple[float, int]] = []
    for pause, amount in schedule:
        now += pause * seconds
        wait = window.wait(amount, now)
        assert 0.0 <= wait <= seconds * (2 + 150 / 100)
        if wait == 0.0:
            window.charge(amount, now)
            admitted.append((now, amount))
        else:
            assert window.wait(amount, now + wait + seconds * 1e-6) == 0.0
    for begin, _ in admitted:
        inside = [amount for moment, amount in admitted if begin <= moment < begin + seconds]
        assert sum(inside) <= 100 or len(inside) == 1
    for (one, amount), (next_one, _) in pairwise(admitted):
        if amount > 100:
            assert next_one - one >= seconds * amount / 100


@given(st.lists(st.tuples(_PAUSES, _AMOUNTS), min_size=1, max_size=40))
def test_nothing_is_refused_that_two_buckets_later_would_be_free(schedule: list[tuple[float, int]]) -> None:
    """A window is stricter than the model by a bucket's length, never by more."""
    window, now = SlidingWindow(100, 1.0), START
    admitted: list[tuple[float, int]] = []
    for pause, amount in schedule:
        now += pause
        recent = sum(each for moment, each in admitted if moment + max(1.0, each / 100) > now - 2 / NUM_BUCKETS)
        if window.wait(amount, now) == 0.0:
            window.charge(amount, now)
            admitted.append((now, amount))
        else:
            assert recent > 0
            assert recent + amount > 100


@given(
    st.lists(st.builds(Bucket, st.integers(0, 2 * int(START)), st.integers(1, 10_000), st.floats(0, 1e12)), max_size=10)
)
def test_whatever_another_run_left_it_recovers(buckets: list[Bucket]) -> None:
    window = SlidingWindow(100, 1.0)
    window.restore(buckets, START)
    longest = 1.0 + 1 / NUM_BUCKETS + sum(bucket.amount for bucket in buckets) / 100
    assert window.wait(1, START) <= longest
    assert window.used(START + longest) == 0
    assert window.wait(100, START + longest) == 0.0


def test_a_lower_limit_does_not_lengthen_what_was_used_before() -> None:
    before = SlidingWindow(1000, 3600.0)
    bucket = before.charge(1000, START)
    after = SlidingWindow(10, 3600.0)
    after.restore([bucket], START)
    assert after.wait(1, START) == pytest.approx(before.wait(1, START))
