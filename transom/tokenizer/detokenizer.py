"""Incremental detokenization: token by token to text, never half a UTF-8 character. A pure state machine.

Knows nothing of stop strings and of requests.
"""

from __future__ import annotations

import codecs
from collections.abc import Collection, Sequence
from itertools import islice

from transom.tokenizer.tokenizer import Tokenizer

_MAX_PENDING_BYTES = 3
"""The longest beginning of a UTF-8 character that is not a whole one."""


class Detokenizer:
    """The text of a growing token sequence. Each token costs constant time, whatever came before.

    Deltas joined, `flush` included, are `tokenizer.decode(all tokens)` when the prompt is empty. After a prompt they
    are what its text grows by: the leading space that a decoder strips from a whole text stays, and a character begun
    by the prompt's last tokens is finished. A token's bytes do not depend on its neighbours, so the prompt matters
    only through its last three bytes and through being empty or not.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_ids: Sequence[int] = (),
        *,
        skip_special_tokens: bool = True,
        shown_tokens: Collection[str] = (),
    ) -> None:
        """`shown_tokens`: special tokens that are not skipped."""
        self._tokenizer = tokenizer
        self._skipped = tokenizer.special_token_ids if skip_special_tokens else frozenset[int]()
        if self._skipped and shown_tokens:
            self._skipped -= {tokenizer.token_to_id(token) for token in shown_tokens}
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._at_start = True
        self._take_context(prompt_ids)

    def feed(self, token_id: int) -> str:
        """The text that `token_id` completes; empty while a character is unfinished."""
        if token_id in self._skipped:
            return ""
        new_bytes = self._tokenizer.token_bytes(token_id)
        if self._at_start and new_bytes:
            self._at_start = False
            new_bytes = self._tokenizer.strip_leading_space(new_bytes)
        return self._decoder.decode(new_bytes)

    def flush(self) -> str:
        """At the end: U+FFFD for a character that stays unfinished, else nothing."""
        return self._decoder.decode(b"", final=True)

    def _take_context(self, prompt_ids: Sequence[int]) -> None:
        shown = (token_id for token_id in reversed(prompt_ids) if token_id not in self._skipped)
        pieces = (piece for piece in map(self._tokenizer.token_bytes, shown) if piece)
        tail = list(islice(pieces, _MAX_PENDING_BYTES))
        self._at_start = not tail
        self._decoder.decode(b"".join(reversed(tail)))
