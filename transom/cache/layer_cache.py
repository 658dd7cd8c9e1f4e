"""`PagedLayerCache`: what the layers of one forward pass see of the cache.

It has the shape of the `LayerCache` protocol of `transom.layers`, which this room does not know. All block tables are
gathered when it is made, once for all layers; a layer's call then only picks its row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from transom.cache.block_table import NO_SLOT
from transom.cache.hot_tier import HotTier
from transom.cache.sequence_cache import SequenceCache

BatchPart = tuple[SequenceCache, int, int]
"""(handle, start, num_tokens): the rows of one sequence are its positions `start .. start + num_tokens`."""


class AttentionParameters(Protocol):
    """What attention computes in one layer. `AttentionSpec` of `transom.layers` is one."""

    @property
    def scale(self) -> float: ...
    @property
    def window(self) -> int | None: ...
    @property
    def soft_cap(self) -> float | None: ...


class PagedLayerCache:
    """Valid for one forward pass; used by one thread. Holds no copy of keys or values."""

    __slots__ = ("_first_positions", "_hot_tier", "_rows", "_sequence_starts", "_tables")

    def __init__(self, hot_tier: HotTier, rows: Mapping[int, tuple[int, int]], parts: Sequence[BatchPart]) -> None:
        """`rows` maps a layer's index to (index of its group, row of the group's tables)."""
        self._hot_tier = hot_tier
        self._rows = rows
        self._sequence_starts = np.cumsum([0, *(count for _, _, count in parts)], dtype=np.int32)
        self._first_positions = np.array([start for _, start, _ in parts], dtype=np.int32)
        num_groups = len(parts[0][0].tables)
        self._tables = [
            _stack([handle.tables[group].slots(start + count) for handle, start, count in parts])
            for group in range(num_groups)
        ]

    def attend(
        self,
        layer_index: int,
        query: NDArray[np.float32],
        key: NDArray[np.float32],
        value: NDArray[np.float32],
        spec: AttentionParameters,
    ) -> NDArray[np.float32]:
        """Stores the rows' keys and values, then attends causally over each row's whole sequence.

        `query` is [T, num_attention_heads, head_dim], `key` and `value` are [T, num_key_value_heads, head_dim], all
        f32. Returns a fresh array like `query`. Raises KeyError for a layer that keeps no KV. Blocks until done.
        """
        group, row = self._rows[layer_index]
        where = (self._tables[group][row], self._sequence_starts, self._first_positions)
        self._hot_tier.store(*where, key, value)
        return self._hot_tier.attend(*where, query, spec.scale, spec.window, spec.soft_cap)


def _stack(tables: list[NDArray[np.int32]]) -> NDArray[np.int32]:
    """[num_layers, S, B] from S tables [num_layers, B_s]; a single one, as in decoding alone, is not copied."""
    if len(tables) == 1:
        return tables[0][:, np.newaxis]
    longest = max(table.shape[1] for table in tables)
    stacked = np.full((len(tables[0]), len(tables), longest), NO_SLOT, dtype=np.int32)
    for index, table in enumerate(tables):
        stacked[:, index, : table.shape[1]] = table
    return stacked
