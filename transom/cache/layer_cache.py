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
from transom.cache.conv_states import ConvPass
from transom.cache.hot_tier import AttentionRule, HotTier
from transom.cache.sequence_cache import SequenceCache

BatchPart = tuple[SequenceCache, int, int]
"""(handle, start, num_tokens): the rows of one sequence are its positions `start .. start + num_tokens`."""

LayerRows = Mapping[int, tuple[int, int]]
"""A layer's index -> (index of its group, row of the group's tables)."""


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

    __slots__ = ("_convolutions", "_first_positions", "_hot_tier", "_rows", "_sequence_starts", "_tables", "_visible")

    def __init__(self, hot_tier: HotTier, rows: LayerRows, parts: Sequence[BatchPart], convolutions: ConvPass) -> None:
        self._convolutions = convolutions
        self._hot_tier = hot_tier
        self._rows = rows
        self._sequence_starts = np.cumsum([0, *(count for _, _, count in parts)], dtype=np.int32)
        self._first_positions = np.array([start for _, start, _ in parts], dtype=np.int32)
        groups = range(len(parts[0][0].tables))
        self._tables = [_stack([h.tables[group].slots(start + count) for h, start, count in parts]) for group in groups]
        self._visible = [visible_of([handle for handle, _, _ in parts], group) for group in groups]

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
        self.store(layer_index, key, value)
        return self.attend_stored(layer_index, query, spec)

    def convolve(
        self, layer_index: int, x: NDArray[np.float32], weight: NDArray[np.float32], bias: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        """Convolves the rows `x` [T, hidden_size] behind what each sequence remembers. Raises KeyError for a layer
        without a convolution."""
        return self._convolutions.convolve(layer_index, x, weight, bias)

    def store(self, layer_index: int, key: NDArray[np.float32], value: NDArray[np.float32]) -> None:
        """The first half of `attend`."""
        group, row = self._rows[layer_index]
        self._hot_tier.store(self._tables[group][row], self._sequence_starts, self._first_positions, key, value)

    def attend_stored(
        self, layer_index: int, query: NDArray[np.float32], spec: AttentionParameters
    ) -> NDArray[np.float32]:
        """The second half: every block that a row sees is in RAM."""
        group, row = self._rows[layer_index]
        rule = AttentionRule(spec.scale, spec.window, spec.soft_cap, self._visible[group])
        table = self._tables[group][row]
        return self._hot_tier.attend(table, self._sequence_starts, self._first_positions, query, rule)


def visible_of(handles: Sequence[SequenceCache], group: int) -> NDArray[np.int64] | None:
    """What the strategies of these sequences let the layers of a group see, as attention takes it; None = everything.

    Sliding layers have their own window, whatever the strategy.
    """
    if not handles[0].tables[group].group.is_full:
        return None
    sets = [handle.strategy.attended for handle in handles]
    rows = [(each.keep_first, each.window or 0, each.window_blocks or 0) for each in sets]
    return np.array(rows, dtype=np.int64) if any(map(any, rows)) else None


def _stack(tables: list[NDArray[np.int32]]) -> NDArray[np.int32]:
    """[num_layers, S, B] from S tables [num_layers, B_s]; a single one, as in decoding alone, is not copied."""
    if len(tables) == 1:
        return tables[0][:, np.newaxis]
    longest = max(table.shape[1] for table in tables)
    stacked = np.full((len(tables[0]), len(tables), longest), NO_SLOT, dtype=np.int32)
    for index, table in enumerate(tables):
        stacked[:, index, : table.shape[1]] = table
    return stacked
