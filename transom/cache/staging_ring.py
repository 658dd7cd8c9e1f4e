"""`StagingRing`: a bounded part of the arena through which cold blocks pass. Owns its slots and the transfers to them.

Transfers are started in the order in which they will be needed, as far ahead as there are slots, over the borders of
layers. When a pass has started its last one, the first ones of a next pass over the same blocks are started: while the
engine chooses tokens, the disk goes on working. Used by one thread.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from transom.cache.cold_tier import TIMED_OUT, ColdRead
from transom.cache.read_plan import BLOCKS_PER_SPLIT, ReadUnit
from transom.config.model_config import LayerKind

_BUSY_DISK_BYTES = 4 * 2**20
_MAX_STAGING_BYTES = 32 * 2**20
_TINY_ARENA_SLOTS = 32
_ROUND_BYTES = 2 * 2**20


def num_staging_slots(num_slots: int, slot_bytes: int) -> int:
    """How large a ring should be in an arena of `num_slots`: enough to keep a disk busy while a layer is computed.

    Where the arena is not tiny, one split can be read while one is attended to.
    """
    least = BLOCKS_PER_SPLIT if num_slots < _TINY_ARENA_SLOTS else 2 * BLOCKS_PER_SPLIT
    busy = min(num_slots // 4, _BUSY_DISK_BYTES // slot_bytes)
    ample = min(num_slots // 8, _MAX_STAGING_BYTES // slot_bytes)
    return max(least, busy, ample)


class ColdReader(Protocol):
    """What the ring needs of the cold tier."""

    @property
    def generation(self) -> int: ...
    def read(
        self, kind: LayerKind, row: int, cold_indices: NDArray[np.int64], arena_slots: NDArray[np.int32]
    ) -> ColdRead: ...
    def finish_read(self, read: ColdRead) -> NDArray[np.int32]: ...
    def is_over(self, read: ColdRead) -> bool: ...
    def wait_for_read(self, read: ColdRead) -> bool: ...


@dataclass(frozen=True, slots=True)
class _Started:
    """A unit whose transfer is under way or over, and nobody has looked at it yet."""

    unit: ReadUnit
    read: ColdRead


class StagingRing:
    """Slots `first_slot .. first_slot + num_slots` of the arena."""

    def __init__(self, reader: ColdReader, first_slot: int, num_slots: int, slot_bytes: int) -> None:
        self.max_round_slots = max(BLOCKS_PER_SPLIT, min(num_slots // 4, _ROUND_BYTES // slot_bytes))
        """A unit takes no more slots than this; several fit into the ring, so that one is read while one is used."""
        self._reader = reader
        self._all_slots = np.arange(first_slot, first_slot + num_slots, dtype=np.int32)
        self._free = self._all_slots
        self._units: Sequence[ReadUnit] = ()
        self._next: Iterator[ReadUnit] = iter(())
        self._waiting: ReadUnit | None = None
        self._started: deque[_Started] = deque()
        self._abandoned: list[ColdRead] = []
        self._generation = reader.generation

    @property
    def num_slots(self) -> int:
        return len(self._all_slots)

    def begin(self, units: Sequence[ReadUnit]) -> None:
        """A pass that will `take` exactly these units, in this order. What the last pass left over is given up."""
        num_adopted = self._num_adoptable(units)
        while len(self._started) > num_adopted:
            self._abandoned.append(self._started.pop().read)
        self._units = units
        self._waiting = None
        self._next = itertools.chain(units[num_adopted:], units)
        self.fill()

    def end(self) -> None:
        """Nothing more will be taken before the next `begin`; nothing more is read ahead."""
        self.begin(())

    def take(self, unit: ReadUnit) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Waits for the next unit: the slots its blocks are in, and their errors, 0 where the bytes are right.

        The slots belong to the caller until `give_back`. There are none where the disk takes too long.
        """
        if not self._started and not self._wait_for_slots():
            return self._free[:0], np.full(unit.round.num_slots, TIMED_OUT, np.int32)
        started = self._started.popleft()
        assert started.unit.reads_the_same_as(unit), "units are taken in another order than they were planned"
        errors = self._reader.finish_read(started.read)
        if (errors == TIMED_OUT).any():
            self._abandoned.append(started.read)
            return started.read.arena_slots[:0], errors
        return started.read.arena_slots, errors

    def give_back(self, slots: NDArray[np.int32]) -> None:
        """The caller has read what it took; the next transfers can start."""
        self._free = np.concatenate([self._free, slots])
        self.fill()

    def fill(self) -> None:
        """Starts as many transfers as there are slots for."""
        self._collect_abandoned()
        while self._units and (unit := self._peek()) is not None and unit.round.num_slots <= len(self._free):
            self._waiting = None
            self._start(unit)

    def check_integrity(self) -> None:
        """Between passes. Raises AssertionError unless every slot is free or on its way."""
        under_way = [each.read.arena_slots for each in self._started] + [read.arena_slots for read in self._abandoned]
        slots = np.sort(np.concatenate([self._free, *under_way]))
        assert np.array_equal(slots, self._all_slots), "a staging slot is lost or owned twice"

    def _num_adoptable(self, units: Sequence[ReadUnit]) -> int:
        """How many of the transfers that were started ahead are the first ones of these units."""
        is_stale = self._generation != self._reader.generation
        self._generation = self._reader.generation
        if is_stale:
            return 0
        pairs = zip(self._started, units, strict=False)
        return sum(1 for _ in itertools.takewhile(lambda pair: pair[0].unit.reads_the_same_as(pair[1]), pairs))

    def _peek(self) -> ReadUnit | None:
        if self._waiting is None:
            self._waiting = next(self._next, None)
        return self._waiting

    def _start(self, unit: ReadUnit) -> None:
        slots, self._free = np.split(self._free, [unit.round.num_slots])
        read = self._reader.read(unit.kind, unit.row, unit.round.cold_indices, np.ascontiguousarray(slots))
        self._started.append(_Started(unit, read))

    def _wait_for_slots(self) -> bool:
        """Transfers of an earlier pass still have the slots: waits for them. False: the disk takes too long."""
        for read in tuple(self._abandoned):
            if self._started:
                break
            self._reader.wait_for_read(read)
            self.fill()
        return bool(self._started)

    def _collect_abandoned(self) -> None:
        still_open = [read for read in self._abandoned if not self._reader.is_over(read)]
        over = [read.arena_slots for read in self._abandoned if all(read is not each for each in still_open)]
        if over:
            self._free = np.concatenate([self._free, *over])
            self._abandoned = still_open
