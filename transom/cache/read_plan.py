"""What one forward pass reads from the cold tier, in order. Pure arithmetic over tables; reads nothing itself.

Attention over a sequence with cold blocks goes in rounds over its splits, ascending. A round reads at most so many
blocks, so that a bounded ring of staging slots is enough for any length, and takes the hot blocks in between with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transom.cache.block import NO_INDEX
from transom.config.model_config import LayerKind

BLOCKS_PER_SPLIT = 4
"""Attention's unit: 256 tokens at a multiple of 256. A round consists of whole splits."""


@dataclass(frozen=True, slots=True)
class Round:
    """Splits `first_split .. first_split + num_splits` of one sequence, in any layer of one kind."""

    first_split: int
    num_splits: int
    columns: NDArray[np.int64]
    """Which blocks of the sequence are cold among them, ascending."""
    cold_indices: NDArray[np.int64]
    """Where these lie."""

    @property
    def num_slots(self) -> int:
        """Staging slots that the round takes."""
        return len(self.columns)


@dataclass(frozen=True, slots=True, eq=False)
class ReadUnit:
    """One round in one layer: what is read with one transfer and then attended to."""

    kind: LayerKind
    row: int
    round: Round

    def reads_the_same_as(self, other: ReadUnit) -> bool:
        """Both bring the same bytes, in the same order."""
        return (
            self.kind is other.kind
            and self.row == other.row
            and np.array_equal(self.round.cold_indices, other.round.cold_indices)
        )


def rounds_of(cold_indices: NDArray[np.int64], max_slots: int) -> tuple[Round, ...]:
    """The rounds of a sequence with these places by block, NO_INDEX for blocks that are not cold.

    Together they cover every split once. `max_slots` is at least BLOCKS_PER_SPLIT.
    """
    columns = np.flatnonzero(cold_indices != NO_INDEX)
    groups = list(_groups(columns // BLOCKS_PER_SPLIT, max_slots))
    firsts = [0, *(int(columns[start]) // BLOCKS_PER_SPLIT for start, _ in groups[1:])]
    ends = [*firsts[1:], -(-len(cold_indices) // BLOCKS_PER_SPLIT)]
    return tuple(
        Round(first, end - first, columns[start:stop], cold_indices[columns[start:stop]])
        for first, end, (start, stop) in zip(firsts, ends, groups or [(0, 0)], strict=True)
    )


def _groups(splits: NDArray[np.int64], max_slots: int) -> Iterator[tuple[int, int]]:
    """Cuts cold blocks, given by their ascending splits, into stretches of whole splits and at most `max_slots`."""
    start = 0
    while start < len(splits):
        stop = start + max_slots
        # A split that does not fit whole goes to the next stretch.
        stop = int(np.searchsorted(splits, splits[stop])) if stop < len(splits) else len(splits)
        yield start, stop
        start = stop
