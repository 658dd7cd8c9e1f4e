"""Counting in fixed buckets, cheaply enough for every step, and what was counted as plain data. Knows no metric."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HistogramCounts:
    """A snapshot. `counts[i]` values were at most `bounds[i]` and more than the bound before; the last count, one more
    than there are bounds, is that of larger values. Without anything: nothing was ever counted."""

    bounds: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()
    total: float = 0.0
    """Sum of the values."""

    @property
    def num_values(self) -> int:
        """How many values were counted."""
        return sum(self.counts)

    def __add__(self, other: HistogramCounts) -> HistogramCounts:
        """Both together; ValueError for other bounds."""
        if not self.bounds or not other.bounds:
            return other if other.bounds else self
        if self.bounds != other.bounds:
            raise ValueError("histograms of different bounds cannot be added")
        counts = tuple(mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True))
        return HistogramCounts(self.bounds, counts, self.total + other.total)


NOTHING = HistogramCounts()


class Histogram:
    """The counting half. One thread."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """`bounds` ascend."""
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Counts a value, `times` times."""
        self._counts[bisect_left(self._bounds, value)] += times
        self._total += value * times

    def snapshot(self) -> HistogramCounts:
        """What was counted so far."""
        return HistogramCounts(self._bounds, tuple(self._counts), self._total)
