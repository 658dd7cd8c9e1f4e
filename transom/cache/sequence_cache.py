"""`SequenceCache`: a sequence's handle. Opaque outside this room but for `num_cached_tokens`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from transom.cache.block import Block
from transom.cache.block_table import BlockTable
from transom.cache.layer_group import LayerGroup


class TokenIds(Protocol):
    """The tokens of a sequence. The owner may append to it while the handle is open; nothing else ever changes."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: slice, /) -> Any: ...


class SequenceCache:
    """What the cache knows of one sequence. Compared by identity."""

    __slots__ = ("is_open", "num_cached_tokens", "num_computed_tokens", "num_reserved_tokens", "tables", "token_ids")

    def __init__(self, groups: Sequence[LayerGroup], token_ids: TokenIds) -> None:
        self.token_ids = token_ids
        self.tables = tuple(BlockTable(group) for group in groups)
        self.num_cached_tokens = 0
        """Tokens whose KV was there when the handle was opened."""
        self.num_computed_tokens = 0
        self.num_reserved_tokens = 0
        self.is_open = True

    def owned_blocks(self) -> Iterator[Block]:
        """Every block this sequence holds, once."""
        for table in self.tables:
            yield from table.kept_blocks()
