"""Stop strings in a stream of text: finds the first complete one, and holds back what may become one. Pure."""

from __future__ import annotations

from collections.abc import Sequence


class StopStringScanner:
    """Feeds on text in pieces of any size; the result does not depend on where the pieces are cut.

    The stop string whose last character comes first wins; of two that end together, the one that starts first.
    """

    def __init__(self, stop: Sequence[str], *, include_stop: bool = False) -> None:
        if not all(stop):
            raise ValueError("a stop string must not be empty")
        self._stop = tuple(stop)
        self._include_stop = include_stop
        self._held = ""
        self.matched: str | None = None
        """The stop string that was found. Nothing may be fed after that."""

    def feed(self, text: str) -> str:
        """The text that is now certain: nothing of it is, or may become, a part of a stop string."""
        text = self._held + text
        found = self._first_match(text)
        if found is None:
            certain = len(text) - self._longest_beginning_at_end(text)
            self._held = text[certain:]
            return text[:certain]
        start, self.matched = found
        self._held = ""
        return text[: start + len(self.matched)] if self._include_stop else text[:start]

    def flush(self) -> str:
        """At the end of the text: what was held back after all."""
        held, self._held = self._held, ""
        return held

    def _first_match(self, text: str) -> tuple[int, str] | None:
        starts = ((text.find(stop), stop) for stop in self._stop)
        found = [(start + len(stop), start, stop) for start, stop in starts if start >= 0]
        return min(found)[1:] if found else None

    def _longest_beginning_at_end(self, text: str) -> int:
        """Length of the longest end of `text` that is the beginning of a stop string."""
        longest = min(len(text), max(map(len, self._stop), default=1) - 1)
        for length in range(longest, 0, -1):
            tail = text[-length:]
            if any(stop.startswith(tail) for stop in self._stop):
                return length
        return 0
