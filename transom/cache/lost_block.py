"""`LostBlockError`: bytes that a pass needed did not come back from the cold tier, or came back wrong."""

from __future__ import annotations

from collections.abc import Iterable

from transom.cache.sequence_cache import SequenceCache
from transom.errors import EngineError


class LostBlockError(EngineError):
    """Raised in the middle of a forward pass, whose results are void. Nothing of it was committed.

    The sequences of `handles` have to be closed and computed again from their tokens; the others of the pass continue
    where they were.
    """

    def __init__(self, handles: Iterable[SequenceCache]) -> None:
        super().__init__("Keys and values of this request could not be read back from the SSD.")
        self.handles = tuple(handles)
