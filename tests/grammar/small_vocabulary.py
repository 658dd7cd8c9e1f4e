"""A vocabulary of all bytes, some longer tokens and two special ones; and a way to write under a grammar with it."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from transom.grammar.matcher import Matcher
from transom.grammar.vocabulary import Vocabulary, make_matcher, make_tokenizer

LONGER = (b'{"', b'":', b"abc", b"true", "né".encode(), b'"}', b"  ")
TOKENS = (*(bytes([byte]) for byte in range(256)), *LONGER, b"<|end|>", b"<|call|>", b"")
VOCABULARY = Vocabulary(TOKENS, (len(TOKENS) - 3, len(TOKENS) - 2))
TOKENIZER = make_tokenizer(VOCABULARY)


def matcher_of(grammar: str) -> Matcher:
    """A matcher at its beginning."""
    return Matcher(make_matcher(TOKENIZER, grammar), len(TOKENS))


def write(
    matcher: Matcher, seed: int, max_tokens: int = 400, *, tokens: Sequence[bytes] = TOKENS
) -> tuple[bytes, bool]:
    """Random text under the grammar, its end as likely as any token; whether it is complete."""
    rng = random.Random(seed)
    text = b""
    for _ in range(max_tokens):
        allowed = matcher.allowed()
        choices = [int(token_id) for token_id in np.flatnonzero(allowed.tokens)]
        token_id = rng.choice(choices + [-1] * allowed.end)
        if token_id == -1:
            return text, True
        text += tokens[token_id]
        if matcher.take(token_id):
            return text, True
    return text, False
