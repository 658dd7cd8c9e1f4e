"""`ReuseWriter`: writes reuse data to the cold tier before its room in RAM is wanted. Owns what is still to be written.

A chain is worth it when it is used a second time, or at once when it is long. Everything about it is modest: no more
than a few bytes under way, none while others wait for the disk, and no place that a running sequence could use, since
reuse data gives those up at once. Used by one thread, which waits only when asked to `flush`.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

from transom.cache.block import Block, BlockState
from transom.cache.cold_store import Run
from transom.cache.cold_tier import ColdTier
from transom.cache.no_cold_tier import NoColdTier
from transom.cache.prefix_index import PrefixNode
from transom.cache.reuse_room import ReuseRoom
from transom.config.model_config import LayerKind

MIN_TOKENS_WORTH_WRITING = 512
"""A chain of so many tokens is written when it is computed; a shorter one when it is used again."""

_MAX_BYTES = 8 * 2**20
"""Under way at once."""

_IDLE_FACTOR = 8
"""So many times as much while nothing else is going on."""

_POLL_SECONDS = 0.001

_MAX_WANTED = 2**16
"""Blocks that may wait to be written. Where a disk cannot keep up, the oldest are given up."""


class ReuseWriter:
    """Background writes for one cache. `slot_bytes` are a slot's in RAM."""

    def __init__(self, cold_tier: ColdTier | NoColdTier, room: ReuseRoom, slot_bytes: int) -> None:
        self._cold_tier = cold_tier
        self._room = room
        self._max_slots = max(1, _MAX_BYTES // slot_bytes)
        self._wanted: OrderedDict[Block, None] = OrderedDict()
        self._run_of: dict[LayerKind, tuple[int, Run]] = {}

    def want(self, nodes: Iterable[PrefixNode]) -> None:
        """These nodes, in order of position, are worth a place in the cold tier."""
        if self._cold_tier.num_slots == 0 or self._room.max_cold_slots == 0:
            return
        for node in nodes:
            for block in node.blocks.values():
                if block.state is BlockState.DIRTY:
                    self._wanted[block] = None
        while len(self._wanted) > _MAX_WANTED:
            self._wanted.popitem(last=False)

    def write_some(self, *, is_idle: bool = False) -> None:
        """Starts as many writes as are modest. Quick."""
        if not self._wanted or not self._cold_tier.takes_blocks:
            return
        num_slots = self._max_slots * (_IDLE_FACTOR if is_idle else 1) - self._cold_tier.num_writing_slots
        while self._wanted and num_slots > 0:
            batch = self._next_batch(num_slots)
            if not batch:
                return
            num_slots -= sum(block.num_layers for block in batch)
            self._write(batch)
        self._room.keep_within_cap()

    def flush(self, seconds: float, take_in_writes: Callable[[], None]) -> None:
        """Writes what is wanted, and waits until it is written, at most about so long."""
        end = time.monotonic() + seconds
        while (self._wanted or self._cold_tier.num_writing_slots) and time.monotonic() < end:
            if not self._cold_tier.takes_blocks:
                return
            self.write_some(is_idle=True)
            time.sleep(_POLL_SECONDS)
            take_in_writes()

    def _next_batch(self, num_slots: int) -> list[Block]:
        """The first of what is wanted, of one kind; those that are gone or written already are left out."""
        batch: list[Block] = []
        while self._wanted and num_slots > 0:
            block = next(iter(self._wanted))
            if not block.is_indexed or block.state is not BlockState.DIRTY:
                del self._wanted[block]
                continue
            if batch and block.kind is not batch[0].kind:
                break
            del self._wanted[block]
            batch.append(block)
            num_slots -= block.num_layers
        return batch

    def _write(self, batch: list[Block]) -> None:
        """In places of older reuse data where none are free. What finds no place stays in RAM alone."""
        missing = sum(block.num_layers for block in batch) - self._cold_tier.num_free_slots
        self._room.free_cold(missing)
        batch = [block for block in batch if block.is_indexed]  # older may be the batch itself
        if not batch:
            return
        last, run = self._run_of.get(batch[0].kind, (-1, Run()))
        if batch[0].index != last + 1:
            run = Run()
        num_taken = self._cold_tier.write(batch, run)
        if num_taken:
            self._run_of[batch[0].kind] = (batch[num_taken - 1].index, run)
        self._room.note_begun(batch[:num_taken])
