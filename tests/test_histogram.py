"""Counting in fixed buckets against counting by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transom.histogram import NOTHING, Histogram, HistogramCounts

BOUNDS = (1.0, 2.5, 10.0)


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(1, 5))))
def test_every_value_is_counted_once_in_the_first_bucket_that_holds_it(values: list[tuple[float, int]]) -> None:
    histogram = Histogram(BOUNDS)
    for value, times in values:
        histogram.observe(value, times)
    counted = histogram.snapshot()
    all_values = [value for value, times in values for _ in range(times)]
    assert counted.num_values == len(all_values)
    for index, bound in enumerate(BOUNDS):
        assert sum(counted.counts[: index + 1]) == sum(value <= bound for value in all_values)
    assert counted.total == pytest.approx(sum(all_values))


def test_snapshots_of_the_same_bounds_add_up_and_nothing_adds_nothing() -> None:
    first = HistogramCounts(BOUNDS, (1, 0, 2, 0), 9.5)
    assert first + HistogramCounts(BOUNDS, (1, 1, 1, 1), 20.0) == HistogramCounts(BOUNDS, (2, 1, 3, 1), 29.5)
    assert first + NOTHING == NOTHING + first == first
    assert NOTHING + NOTHING == NOTHING


def test_other_bounds_cannot_be_added() -> None:
    with pytest.raises(ValueError, match="bounds"):
        HistogramCounts(BOUNDS, (0, 0, 0, 0)) + HistogramCounts((1.0,), (0, 0))
