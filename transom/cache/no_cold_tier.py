"""`NoColdTier`: stands where a cold tier would, of a model whose KV is in RAM alone. Owns nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from transom.cache.block import Block, BlockState
from transom.cache.cold_store import Run
from transom.cache.cold_tier import ColdRead
from transom.cache.stats import TierState, TierStats
from transom.config.model_config import LayerKind


class NoColdTier:
    """Where nothing may leave RAM."""

    num_slots = 0
    num_free_slots = 0
    num_placed_slots = 0
    num_writing_slots = 0
    generation = 0
    state = TierState.ON
    takes_blocks = True

    def tiers(self, _num_bytes_reuse: int = 0) -> tuple[TierStats, ...]:
        return ()

    def close(self) -> None:
        """There is nothing."""

    def stall_seconds(self) -> float:
        return 0.0

    def read_totals(self) -> tuple[int, float]:
        return 0, 0.0

    def read(
        self, kind: LayerKind, _row: int, _cold_indices: NDArray[np.int64], _arena_slots: NDArray[np.int32]
    ) -> ColdRead:
        raise KeyError(kind)

    def finish_read(self, read: ColdRead, _wanted: NDArray[np.bool_] | None = None) -> NDArray[np.int32]:
        raise KeyError(read.kind)

    def checksums(self, kind: LayerKind, _cold_indices: NDArray[np.int64]) -> NDArray[np.uint64]:
        raise KeyError(kind)

    def is_over(self, read: ColdRead) -> bool:
        raise KeyError(read.kind)

    def wait_for_read(self, read: ColdRead) -> bool:
        raise KeyError(read.kind)

    def write(self, _blocks: Sequence[Block], _run: Run) -> int:
        """Takes none."""
        return 0

    def poll(self) -> list[Block]:
        return []

    def wait(self) -> list[Block]:
        return []

    def forget(self, _block: Block) -> bool:
        return True

    def trim(self) -> None:
        """There is nothing."""

    def check_integrity(self, blocks: Sequence[Block]) -> None:
        assert all(block.state is BlockState.DIRTY for block in blocks), "a block is said to be in a tier that is not"
