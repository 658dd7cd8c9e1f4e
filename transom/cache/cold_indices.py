"""Which places of a cold file are free. Owns numbers only; knows no file, no byte and no sequence."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class ColdIndices:
    """Places `0 .. capacity`, given out so that what is near in a sequence is near in the file.

    A run of its own is begun in the middle of the widest gap, so that it and the run before the gap can both grow.
    """

    def __init__(self, capacity: int) -> None:
        self._is_free = np.ones(capacity, dtype=np.bool_)
        self._num_free = capacity
        self._retired: set[int] = set()

    @property
    def capacity(self) -> int:
        return len(self._is_free)

    @property
    def num_free(self) -> int:
        return self._num_free

    @property
    def num_retired(self) -> int:
        return len(self._retired)

    def take(self, preferred: int | None) -> int:
        """A free place, the preferred one if it is one: O(1), else O(capacity). The caller has looked at `num_free`."""
        assert self._num_free > 0, "a place is wanted and none is free"
        index = preferred if preferred is not None and self._can_be(preferred) else self._begin_of_run()
        self._is_free[index] = False
        self._num_free -= 1
        return index

    def release(self, index: int) -> None:
        """Gives a place back; a retired one stays taken for good."""
        assert not self._is_free[index], "a place was released that nobody had"
        if index not in self._retired:
            self._is_free[index] = True
            self._num_free += 1

    def retire(self, index: int) -> None:
        """A place that is taken will never be given out again: the medium is doubtful there."""
        assert not self._is_free[index], "a place was retired that nobody had"
        self._retired.add(index)

    def is_taken(self, index: int) -> bool:
        return not self._is_free[index]

    def _can_be(self, index: int) -> bool:
        return 0 <= index < self.capacity and bool(self._is_free[index])

    def _begin_of_run(self) -> int:
        starts, ends = _gaps(self._is_free)
        widest = int(np.argmax(ends - starts))
        start, end = int(starts[widest]), int(ends[widest])
        return start if start == 0 else (start + end) // 2


def _gaps(is_free: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Where stretches of free places start, and where they end."""
    edges = np.diff(is_free.astype(np.int8), prepend=0, append=0)
    return np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
