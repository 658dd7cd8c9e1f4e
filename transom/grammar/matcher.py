"""A grammar over one growing sequence: which tokens may come next, and whether the text is complete.

Its state is a function of the grammar and the generated tokens alone; whoever loses it makes it again from these.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from math import inf

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

from transom.grammar.vocabulary import is_dead_end, reason_of

_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
_CEILINGS = np.where(_BITS == 1, np.float32(np.inf), np.float32(-np.inf))
"""Of each byte of a bit mask those of its eight tokens, [256, 8]. float32."""

_DEAD_END = "no token of this model continues the text"


class GrammarStuckError(Exception):
    """The grammar cannot be followed any further; the message says why."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """What may come next."""

    ceilings: NDArray[np.float32]
    """By token id, what no logit may exceed: infinity where the token may come, else minus infinity. [vocab_size]"""
    end: bool
    """The text may end here."""
    has_tokens: bool
    """Some token may come."""

    @property
    def only_end(self) -> bool:
        """Nothing may come."""
        return self.end and not self.has_tokens

    @property
    def tokens(self) -> NDArray[np.bool_]:
        """By token id, [vocab_size]."""
        return self.ceilings > 0


class Matcher:
    """One text under a grammar. Not thread-safe."""

    def __init__(self, compiled: LLMatcher, vocab_size: int) -> None:
        """`compiled` stays at its beginning; what it learns about its grammar is shared by all its copies."""
        self._matcher = compiled.deep_copy()
        self._vocab_size = vocab_size
        self._mask = np.zeros(vocab_size // 32 + 1, np.int32)  # one bit for each token, and one for the end
        self._mask_address = self._mask.ctypes.data
        self._num_taken = 0
        self._allowed: Allowed | None = None
        self.last_cpu_seconds = inf
        """What the allowed tokens took when they were last computed."""

    def catch_up(self, generated: NDArray[np.int32]) -> None:
        """Takes those of the generated tokens that it has not taken yet. Raises GrammarStuckError."""
        for token_id in generated[self._num_taken :].tolist():
            self._take(token_id)

    def allowed(self) -> Allowed:
        """What may come next; computed once per state, some microseconds to milliseconds, without the GIL.

        Raises GrammarStuckError when nothing may come, not even the end.
        """
        if self._allowed is None:
            started = time.thread_time()
            self._allowed = self._compute()
            self.last_cpu_seconds = time.thread_time() - started
        return self._allowed

    @property
    def has_computed(self) -> bool:
        """`allowed` answers at once."""
        return self._allowed is not None

    def take(self, token_id: int) -> bool:
        """Goes on with a token that was allowed; whether the text is complete then. Raises GrammarStuckError."""
        self._take(token_id)
        if self._matcher.is_stopped():
            return True
        return self._matcher.is_accepting() and self.allowed().only_end

    def _take(self, token_id: int) -> None:
        self._allowed = None
        self._num_taken += 1
        if not self._matcher.consume_token(token_id):
            raise self._stuck()

    def _compute(self) -> Allowed:
        self._matcher.unsafe_compute_mask_ptr(self._mask_address, self._mask.nbytes)
        if self._matcher.is_error():
            raise self._stuck()
        ceilings = _CEILINGS.take(self._mask.view(np.uint8), axis=0).reshape(-1)
        end = bool(ceilings[self._vocab_size] > 0)
        allowed = Allowed(ceilings[: self._vocab_size], end, has_tokens=self._has_tokens(end))
        if not end and not allowed.has_tokens:
            raise GrammarStuckError(_DEAD_END)
        return allowed

    def _has_tokens(self, end: bool) -> bool:
        """Bits behind that of the end are never set."""
        if np.count_nonzero(self._mask) > 1:
            return True
        return int(np.bitwise_count(self._mask.view(np.uint32)).sum()) > end

    def _stuck(self) -> GrammarStuckError:
        message = self._matcher.get_error()
        return GrammarStuckError(_DEAD_END if is_dead_end(message) else reason_of(message))
