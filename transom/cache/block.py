"""`Block`: KV of 64 consecutive tokens for all layers of one kind. Knows no arena and no sequence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transom.config.kv_size import BLOCK_SIZE
from transom.config.model_config import LayerKind

__all__ = ["BLOCK_SIZE", "Block", "max_blocks_of_run", "num_blocks"]


def num_blocks(num_tokens: int) -> int:
    """Blocks that the positions `0 .. num_tokens` lie in."""
    return -(-num_tokens // BLOCK_SIZE)


def max_blocks_of_run(num_tokens: int) -> int:
    """The most blocks that any run of so many consecutive positions can touch, wherever it begins."""
    return num_blocks(num_tokens - 1) + 1 if num_tokens else 0


@dataclass(slots=True, eq=False)
class Block:
    """The unit of allocation and sharing: the positions `start .. start + 64` of every sequence that shares it."""

    kind: LayerKind
    slots: NDArray[np.int32]
    """[num_layers of this kind], read-only: where in the arena each layer's share lies."""
    start: int
    ref_count: int = 1
    sealed: bool = False
    """All its positions are computed; its bytes never change again."""

    @property
    def end(self) -> int:
        return self.start + BLOCK_SIZE
