"""What the context window of each open sequence looks like, block by block, as plain data. Changes nothing.

Made when somebody looks, of what tables and blocks say anyway. Holds no token and no text. States lie in runs, and
importance in a bounded number of cells, so that a window of a million tokens stays small.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from transom.cache.block import Block, BlockState, num_blocks
from transom.cache.block_table import BlockTable
from transom.cache.sequence_cache import SequenceCache
from transom.cache.stats import SequenceStats
from transom.config.model_config import LayerKind

MAX_IMPORTANCE_CELLS = 256
"""Importance is told of so many cells at most, however long the sequence is."""

_Codes = NDArray[np.uint8]


class PlaceState(StrEnum):
    """Where a block of a sequence is."""

    HOT = "hot"
    """In RAM."""
    WRITING = "writing"
    """In RAM, on the way to SSD: hot until it is there."""
    COLD = "cold"
    """On SSD alone."""
    READING = "reading"
    """On SSD, on the way to RAM: cold until it is there."""
    EVICTED = "evicted"
    """Gone: no later token of these layers sees it."""
    RESERVED = "reserved"
    """Has room in RAM; none of its tokens is computed."""


_STATES = tuple(PlaceState)
_HOT, _WRITING, _COLD, _READING, _EVICTED, _RESERVED = range(len(_STATES))


@dataclass(frozen=True, slots=True)
class BlockRun:
    """Neighbouring blocks of one state."""

    state: PlaceState
    num_blocks: int


@dataclass(frozen=True, slots=True)
class Importance:
    """Decayed attention that the blocks got, from the first one on."""

    blocks_per_cell: int
    shares: tuple[float, ...]
    """Of all attention that was measured; sums to 1, up to rounding."""


@dataclass(frozen=True, slots=True)
class KindWindow:
    """The blocks of all layers of one kind."""

    kind: LayerKind
    num_layers: int
    runs: tuple[BlockRun, ...]
    """From the first block on; what lies behind them is not written yet."""
    shared: tuple[tuple[int, int], ...]
    """(first block, blocks) that the prefix index names, or other sequences use, too."""
    keep_first: int
    """The last computed token sees the positions below this ..."""
    first_recent: int
    """... and those from here on."""
    importance: Importance | None
    """None where nobody measures."""


@dataclass(frozen=True, slots=True)
class SequenceWindow:
    """One sequence. The first of `kinds` that is full attention, or else the first, is what `stats` counts."""

    stats: SequenceStats
    num_cached_tokens: int
    """Tokens that it did not have to compute, because others had."""
    kinds: tuple[KindWindow, ...]


def window_of(handle: SequenceCache, on_the_way: Container[Block]) -> SequenceWindow:
    """The window of an open sequence as it is now; the blocks in `on_the_way` are being read back."""
    return SequenceWindow(
        handle.stats(),
        handle.num_cached_tokens,
        tuple(_kind_window(table, handle.num_computed_tokens, on_the_way) for table in handle.tables),
    )


def _kind_window(table: BlockTable, num_computed_tokens: int, on_the_way: Container[Block]) -> KindWindow:
    attended, blocks = table.attended, table.blocks
    codes = np.fromiter((_code(block, on_the_way) for block in blocks), np.uint8, len(blocks))
    behind = codes[num_blocks(num_computed_tokens) :]
    behind[behind != _EVICTED] = _RESERVED
    return KindWindow(
        kind=table.group.kind,
        num_layers=table.group.num_layers,
        runs=tuple(BlockRun(_STATES[code], length) for _, code, length in _runs(codes)),
        shared=_shared(blocks),
        keep_first=attended.keep_first,
        first_recent=attended.first_recent(max(0, num_computed_tokens - 1)),
        importance=_importance(table.mass) if table.follows_mass else None,
    )


def _code(block: Block | None, on_the_way: Container[Block]) -> int:
    if block is None:
        return _EVICTED
    if block.state is BlockState.COLD:
        return _READING if block in on_the_way else _COLD
    return _WRITING if block.state is BlockState.WRITING else _HOT


def _shared(blocks: Sequence[Block | None]) -> tuple[tuple[int, int], ...]:
    flags = (block is not None and (block.is_indexed or len(block.holders) > 1) for block in blocks)
    runs = _runs(np.fromiter(flags, np.uint8, len(blocks)))
    return tuple((first, length) for first, is_shared, length in runs if is_shared)


def _runs(codes: _Codes) -> list[tuple[int, int, int]]:
    """(first, value, length) of each run of equal values."""
    if not len(codes):
        return []
    starts = np.concatenate([[0], np.flatnonzero(np.diff(codes)) + 1])
    lengths = np.diff([*starts, len(codes)])
    return list(zip(starts.tolist(), codes[starts].tolist(), lengths.tolist(), strict=True))


def _importance(mass: NDArray[np.float32]) -> Importance | None:
    total = float(mass.sum())
    if total <= 0:
        return None
    blocks_per_cell = -(-len(mass) // MAX_IMPORTANCE_CELLS)
    sums = np.add.reduceat(mass, np.arange(0, len(mass), blocks_per_cell))
    return Importance(blocks_per_cell, tuple(round(float(each) / total, 5) for each in sums))
