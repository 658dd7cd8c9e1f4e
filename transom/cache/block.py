"""`Block`: KV of 64 consecutive tokens for all layers of one kind. Knows no arena, no file and no sequence."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from transom.config.kv_size import BLOCK_SIZE
from transom.config.model_config import LayerKind

__all__ = ["BLOCK_SIZE", "NO_INDEX", "NO_SLOTS", "Block", "BlockState", "max_blocks_of_run", "num_blocks"]

NO_INDEX = -1
"""Cold index of a block that has no place in the cold tier."""

NO_SLOTS: NDArray[np.int32] = np.empty(0, dtype=np.int32)
"""Slots of a block that has no place in RAM."""
NO_SLOTS.flags.writeable = False


def num_blocks(num_tokens: int) -> int:
    """Blocks that the positions `0 .. num_tokens` lie in."""
    return -(-num_tokens // BLOCK_SIZE)


def max_blocks_of_run(num_tokens: int) -> int:
    """The most blocks that any run of so many consecutive positions can touch, wherever it begins."""
    return num_blocks(num_tokens - 1) + 1 if num_tokens else 0


class BlockState(Enum):
    """Where a block's bytes are."""

    DIRTY = "dirty"
    """In RAM alone."""
    WRITING = "writing"
    """In RAM, on the way to the cold tier."""
    CLEAN = "clean"
    """In both tiers: the RAM copy can go at once."""
    COLD = "cold"
    """In the cold tier alone."""


class BlockHolder(Protocol):
    """A table that names a block, and where it lies."""

    num_hot_blocks: int
    """Blocks that it names and that are in RAM."""

    def note_demoted(self, block: Block) -> None:
        """Its RAM copy is gone."""
        ...

    def note_promoted(self, block: Block) -> None:
        """It is in RAM again."""
        ...


@dataclass(slots=True, eq=False)
class Block:
    """The unit of allocation and sharing: the positions `start .. start + 64` of every sequence that shares it."""

    kind: LayerKind
    num_layers: int
    """Of this kind."""
    slots: NDArray[np.int32]
    """[num_layers], read-only: where in the arena each layer's share lies; empty when it is COLD."""
    start: int
    ref_count: int = 1
    sealed: bool = False
    """All its positions are computed; its bytes never change again."""
    state: BlockState = BlockState.DIRTY
    cold_index: int = NO_INDEX
    """Its place in the cold file of its kind, the same for all layers."""
    is_indexed: bool = False
    """The prefix index is one of its owners."""
    holders: list[BlockHolder] = field(default_factory=list)
    """The tables of the sequences that use it, each an owner."""

    @property
    def index(self) -> int:
        """Which block of its sequence it is."""
        return self.start // BLOCK_SIZE

    @property
    def end(self) -> int:
        return self.start + BLOCK_SIZE

    @property
    def is_cold(self) -> bool:
        return self.state is BlockState.COLD
