"""`Pools`: from hidden states, chunk by chunk, to one vector per sequence.

Rows are added one by one in the order of their positions, in float64, so that the same text gives the same bits however
it was cut into chunks. A sequence that was preempted begins again at its first token.
"""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from transom.errors import EngineError
from transom.request import Pooling
from transom.scheduler import ScheduledSequence, Sequence


@dataclass(slots=True)
class _Sum:
    """Of the hidden states of a sequence's first tokens."""

    total: NDArray[np.float64]  # [hidden_size]
    num_rows: int = 0


class Pools:
    """Vectors in the making, one per sequence; forgotten with it."""

    def __init__(self) -> None:
        self._sums: WeakKeyDictionary[Sequence, _Sum] = WeakKeyDictionary()

    def take(self, scheduled: ScheduledSequence, hidden: NDArray[np.float32]) -> tuple[float, ...] | None:
        """Takes in the hidden states [n, hidden_size] of `pooled_rows`; the vector when the last token was among them.

        It is not normalised. Raises EngineError when rows are missing, or numbers of it are not finite.
        """
        if scheduled.sequence.request.pooling is Pooling.MEAN:
            return self._take_for_mean(scheduled, hidden)
        return _finite(hidden[-1]) if _is_complete(scheduled) else None

    def _take_for_mean(self, scheduled: ScheduledSequence, hidden: NDArray[np.float32]) -> tuple[float, ...] | None:
        sequence = scheduled.sequence
        if scheduled.start == 0:
            self._sums[sequence] = _Sum(np.zeros(hidden.shape[1], np.float64))
        pool = self._sums.get(sequence)
        if pool is None or pool.num_rows != scheduled.start:
            raise EngineError("The mean of hidden states was asked for, and some of them were not computed.")
        for row in hidden:
            pool.total += row
        pool.num_rows += len(hidden)
        if not _is_complete(scheduled):
            return None
        del self._sums[sequence]
        return _finite((pool.total / pool.num_rows).astype(np.float32))


def pooled_rows(scheduled: ScheduledSequence) -> NDArray[np.int32]:
    """Which of the scheduled rows a vector is made of: all of them, or the last token's."""
    rows = np.arange(scheduled.num_scheduled_tokens, dtype=np.int32)
    if scheduled.sequence.request.pooling is Pooling.MEAN:
        return rows
    return rows[-1:] if _is_complete(scheduled) else rows[:0]


def _is_complete(scheduled: ScheduledSequence) -> bool:
    return scheduled.end == scheduled.sequence.num_tokens


def _finite(vector: NDArray[np.float32]) -> tuple[float, ...]:
    if not np.isfinite(vector).all():
        raise EngineError("The model's hidden states of this text are not finite numbers.")
    return tuple(vector.tolist())
