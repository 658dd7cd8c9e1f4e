"""Marks in a stream of text (`<tool_call>`): finding the first one, and holding back what may become one. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence


class MarkFinder:
    """Finds the first of several marks in text that comes in pieces; what is held is never longer than a mark."""

    def __init__(self, marks: Sequence[str]) -> None:
        self._pattern = re.compile("|".join(map(re.escape, sorted(marks, key=len, reverse=True))))
        self._beginnings = {mark[:length] for mark in marks for length in range(1, len(mark))}
        self._longest = max(map(len, marks)) - 1

    def split(self, text: str) -> tuple[str, str | None, str]:
        """(text before the first mark, the mark, text behind it); without a mark (certain text, None, what may be one's
        beginning), of which the last part must be given again, in front of what comes."""
        found = self._pattern.search(text)
        if found is not None:
            return text[: found.start()], found.group(), text[found.end() :]
        for length in range(min(len(text), self._longest), 0, -1):
            if text[-length:] in self._beginnings:
                return text[:-length], None, text[-length:]
        return text, None, ""
