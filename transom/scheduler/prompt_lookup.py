"""`PromptLookup`: where a sequence has said before what it has just said, and how it went on there.

Prompt lookup decoding (A. Saxena, 2023, https://github.com/apoorvumang/prompt-lookup-decoding) with an index as in LZ77
compressors (RFC 1951, section 4): a hash of three tokens leads to the chain of positions that ended with them. Knows
tokens only: not what they cost, nor whether a guess turned out right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_MATCH = 3
"""Tokens that must be the same before a continuation is worth a guess."""
MAX_MATCH = 8
"""Longer agreement is not told apart."""

_MAX_CANDIDATES = 16
"""Earlier positions that are compared, the most recent first."""
_MAX_INDEXED_AT_ONCE = 2**16
"""Tokens; a step waits no longer than their indexing takes, some milliseconds, however long the prompt is."""
_MIN_SLOT_BITS, _MAX_SLOT_BITS = 8, 20
_FEW_TOKENS = 8
_NOWHERE = -1
_MULTIPLIERS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)  # large odd numbers: a multiplicative hash
_MASK = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Match:
    """An earlier place that reads like the end of the sequence, and what followed there."""

    length: int
    """Tokens that agree, MIN_MATCH .. MAX_MATCH."""
    continuation: tuple[int, ...]


class PromptLookup:
    """The index of one sequence: some 13 bytes per token, and O(1) work for each, amortised.

    Single numbers are read through memoryviews, which is several times as fast as through arrays: what is looked up
    between two steps must take microseconds.
    """

    __slots__ = ("_head_at", "_heads", "_lag", "_num_indexed", "_previous", "_previous_at", "_shift")

    def __init__(self) -> None:
        self._previous = np.empty(256, np.int32)
        """By position: the one before that has the same hash."""
        self._previous_at = self._previous.data
        self._lag: int | None = None
        """How far back the last match lay: while its continuation goes on being right, so does the next one."""
        self._begin(_MIN_SLOT_BITS)

    def _begin(self, num_slot_bits: int) -> None:
        """An empty index."""
        self._shift = 64 - num_slot_bits
        self._heads = np.full(2**num_slot_bits, _NOWHERE, np.int32)
        """By hash of three tokens: the last position that ends with them."""
        self._head_at = self._heads.data
        self._num_indexed = MIN_MATCH - 1

    def find(self, token_ids: NDArray[np.int32], num_wanted: int) -> Match | None:
        """The longest match of the end of `token_ids` [num_tokens], of those the one last used or else the most recent.

        Its continuation is `num_wanted` tokens long: where it reaches the end it repeats itself. `token_ids` are those
        of the call before and whatever came after them.
        """
        num_tokens, token_at = len(token_ids), token_ids.data
        if num_tokens <= MIN_MATCH:
            return None
        self._index(token_ids, num_tokens - 1)
        length, end = self._longest(token_at)
        if length < MIN_MATCH:  # nothing, or nothing but the hash, is the same
            return None
        self._lag = num_tokens - 1 - end
        period = token_at[end + 1 : end + 1 + min(num_wanted, self._lag)].tolist()
        repeated = period * -(-num_wanted // len(period))
        return Match(length, tuple(repeated[:num_wanted]))

    def _longest(self, token_at: memoryview) -> tuple[int, int]:
        """(length of the match, its last position) of the best of what may be matches; length 0 if there are none."""
        last = len(token_at) - 1
        longest, best = 0, _NOWHERE
        end = _NOWHERE if self._lag is None else last - self._lag
        if end != _NOWHERE:
            longest, best = _match_length(token_at, end), end
        end = self._head_at[self._slot(token_at, last)]
        for _ in range(_MAX_CANDIDATES):
            if end == _NOWHERE or longest == MAX_MATCH:
                break
            length = _match_length(token_at, end)
            if length > longest:
                longest, best = length, end
            end = self._previous_at[end]
        return longest, best

    def _index(self, token_ids: NDArray[np.int32], end: int) -> None:
        """Takes in the positions below `end` that are not indexed yet, as many as there is time for."""
        num_slot_bits = min(_MAX_SLOT_BITS, (end - 1).bit_length())
        if 2**num_slot_bits > len(self._heads):
            self._begin(num_slot_bits)
        end = min(end, self._num_indexed + _MAX_INDEXED_AT_ONCE)
        if end > len(self._previous):
            self._previous_at.release()
            larger = np.empty(end + end // 4, np.int32)
            larger[: len(self._previous)] = self._previous
            self._previous = larger
            self._previous_at = larger.data
        if end - self._num_indexed > _FEW_TOKENS:
            self._index_many(token_ids, end)
        token_at = token_ids.data
        for position in range(self._num_indexed, end):
            slot = self._slot(token_at, position)
            self._previous_at[position] = self._head_at[slot]
            self._head_at[slot] = position
        self._num_indexed = max(self._num_indexed, end)

    def _index_many(self, token_ids: NDArray[np.int32], end: int) -> None:
        """As `_index` does one by one: of the same hash each position is preceded by the one before."""
        positions = np.arange(self._num_indexed, end, dtype=np.int32)
        mixed = np.zeros(len(positions), np.uint64)
        for back, multiplier in enumerate(_MULTIPLIERS):
            mixed += token_ids[positions - back].astype(np.uint64) * np.uint64(multiplier)
        slots = mixed >> np.uint64(self._shift)
        order = np.argsort(slots, kind="stable")
        slots, positions = slots[order], positions[order]
        is_first = np.concatenate(([True], slots[1:] != slots[:-1]))
        is_last = np.concatenate((is_first[1:], [True]))
        before = np.concatenate(([_NOWHERE], positions[:-1]))
        self._previous[positions] = np.where(is_first, self._heads[slots], before)
        self._heads[slots[is_last]] = positions[is_last]
        self._num_indexed = end

    def _slot(self, token_at: memoryview, position: int) -> int:
        """The hash of the three tokens that end at `position`."""
        mixed = token_at[position] * _MULTIPLIERS[0]
        mixed += token_at[position - 1] * _MULTIPLIERS[1] + token_at[position - 2] * _MULTIPLIERS[2]
        return int(mixed & _MASK) >> self._shift


def _match_length(token_at: memoryview, end: int) -> int:
    """How many tokens back from `end` are those at the end of the sequence, up to MAX_MATCH."""
    last = len(token_at) - 1
    length = 0
    while length < MAX_MATCH and length <= end and token_at[end - length] == token_at[last - length]:
        length += 1
    return length
