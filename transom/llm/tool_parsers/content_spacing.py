"""White space of content among calls: what stands around calls belongs to them. Pure."""

from __future__ import annotations

from transom.llm.chat_events import ChatEvent, ContentPiece

MAX_SPACE = 1024
"""Characters of white space that are held; who writes more of it means it."""


class ContentSpacing:
    """Holds white space until it is known what stands behind it."""

    def __init__(self) -> None:
        self._space = ""
        self._has_called = False

    def add(self, text: str) -> list[ChatEvent]:
        """Content that is certain after more of it."""
        kept = text.rstrip()
        shown = self._space + kept if kept else ""
        space = text[len(kept) :] if kept else self._space + text
        shown += space[:-MAX_SPACE]
        self._space = space[-MAX_SPACE:]
        return [ContentPiece(shown)] if shown else []

    def called(self) -> None:
        """A call was told: the space before it is gone."""
        self._space = ""
        self._has_called = True

    def finish(self) -> list[ChatEvent]:
        """At the end of the text: space that was held after all, unless calls are before it."""
        held, self._space = self._space, ""
        return [ContentPiece(held)] if held and not self._has_called else []
