"""SentencePiece's merging, as plainly as it can be said: the slow specification of what the tokenizer does."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise


def merge_by_score(text: str, scores: Mapping[str, float]) -> list[str]:
    """The pieces of `text`: while two neighbours make a token, the best such pair, leftmost of equals, is merged."""
    pieces = list(text)
    while True:
        candidates = [
            (-scores[left + right], place)
            for place, (left, right) in enumerate(pairwise(pieces))
            if left + right in scores
        ]
        if not candidates:
            return pieces
        place = min(candidates)[1]
        pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]
