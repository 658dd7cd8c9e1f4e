"""Which places of a cold file are free. Owns numbers only; knows no file, no byte and no sequence."""

from __future__ import annotations

from bisect import bisect_right


class ColdIndices:
    """Places `0 .. capacity`, given out so that what is near in a sequence is near in the file.

    A run of its own is begun in the middle of the widest gap, so that it and the run before the gap can both grow.
    Memory grows with the places in use, not with the capacity: a file may be as large as a disk, and is mostly holes.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._starts = [0]  # of the gaps, in order; no two of them touch
        self._ends = [capacity]
        self._num_free = capacity
        self._retired: set[int] = set()

    @property
    def num_free(self) -> int:
        return self._num_free

    @property
    def num_retired(self) -> int:
        return len(self._retired)

    def take(self, preferred: int | None) -> int:
        """A free place, the preferred one if it is one: O(gaps). The caller has looked at `num_free`."""
        assert self._num_free > 0, "a place is wanted and none is free"
        is_free = preferred is not None and not self.is_taken(preferred)
        index = preferred if preferred is not None and is_free else self._begin_of_run()
        gap = self._gap_before(index)
        start, end = self._starts[gap], self._ends[gap]
        rest = [(a, b) for a, b in ((start, index), (index + 1, end)) if a < b]
        self._replace(gap, gap + 1, rest)
        self._num_free -= 1
        return index

    def release(self, index: int) -> None:
        """Gives a place back; a retired one stays taken for good."""
        assert self.is_taken(index), "a place was released that nobody had"
        if index in self._retired:
            return
        gap = self._gap_before(index)
        joins_left = gap >= 0 and self._ends[gap] == index
        joins_right = gap + 1 < len(self._starts) and self._starts[gap + 1] == index + 1
        start = self._starts[gap] if joins_left else index
        end = self._ends[gap + 1] if joins_right else index + 1
        self._replace(gap + 1 - joins_left, gap + 1 + joins_right, [(start, end)])
        self._num_free += 1

    def retire(self, index: int) -> None:
        """A place that is taken will never be given out again: the medium is doubtful there."""
        assert self.is_taken(index), "a place was retired that nobody had"
        self._retired.add(index)

    def is_taken(self, index: int) -> bool:
        """Places outside the file are."""
        gap = self._gap_before(index)
        return gap < 0 or index >= self._ends[gap]

    def _gap_before(self, index: int) -> int:
        """The last gap that starts at this place or before it; -1: there is none."""
        return bisect_right(self._starts, index) - 1

    def _replace(self, first: int, last: int, gaps: list[tuple[int, int]]) -> None:
        """Gaps `first .. last` become these."""
        self._starts[first:last] = [start for start, _ in gaps]
        self._ends[first:last] = [end for _, end in gaps]

    def _begin_of_run(self) -> int:
        start, end = max(zip(self._starts, self._ends, strict=True), key=lambda gap: gap[1] - gap[0])
        return start if start == 0 else (start + end) // 2
