"""`TokenBuffer`: the tokens of one sequence. Plain data; knows nothing of what they mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from transom.request import TokenIds


class TokenBuffer:
    """Token ids that only ever grow: int32, amortised O(1) append, slices without a copy.

    The first ones are not copied before there are more. The cache is handed this object itself, not a snapshot: tokens
    that are generated later are seen through it.
    """

    __slots__ = ("_array", "_length")

    def __init__(self, token_ids: Sequence[int]) -> None:
        self._array = np.frombuffer(TokenIds.of(token_ids).packed, dtype=np.int32)
        self._length = len(token_ids)

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> NDArray[np.int32]: ...
    def __getitem__(self, index: int | slice) -> int | NDArray[np.int32]:
        selected = self.view()[index]
        return selected if isinstance(selected, np.ndarray) else int(selected)

    def view(self) -> NDArray[np.int32]:
        """All tokens, [num_tokens], read-only, without a copy. Later appends do not show in it."""
        tokens = self._array[: self._length]
        tokens.flags.writeable = False
        return tokens

    def append(self, token_id: int) -> None:
        if self._length == len(self._array):
            self._grow(1)
        self._array[self._length] = token_id
        self._length += 1

    def followed_by(self, draft: Sequence[int]) -> NDArray[np.int32]:
        """All tokens and a draft that is not one of them, [num_tokens + len(draft)], read-only, without a copy.

        Holds until the next append, or the next draft.
        """
        end = self._length + len(draft)
        if end > len(self._array):
            self._grow(len(draft))
        if draft:
            self._array[self._length : end] = draft
        tokens = self._array[:end]
        tokens.flags.writeable = False
        return tokens

    def _grow(self, num_tokens: int) -> None:
        larger = np.empty(16 + self._length + max(num_tokens, self._length // 4), dtype=np.int32)
        larger[: self._length] = self._array[: self._length]
        self._array = larger
