"""Calls written as a mark, the function's name, another mark, and the arguments as one JSON object."""

from __future__ import annotations

from collections.abc import Collection

from transom.llm.chat_events import ArgumentsPiece, CallEnd, CallStart, ChatEvent
from transom.llm.tool_parsers.content_spacing import ContentSpacing
from transom.llm.tool_parsers.json_value import JsonValue
from transom.llm.tool_parsers.marks import MarkFinder

_MAX_HEAD = 1024
"""Characters of a name with its marks; whoever writes longer ones calls nothing."""


class NamedCalls:
    """Text outside is content. Space around calls belongs to them."""

    def __init__(self, opening: str, before_arguments: str, before_id: str, names: Collection[str]) -> None:
        """Between name and arguments there may be an id behind its own mark; it is of no use."""
        self._opening = opening
        self._before_arguments = before_arguments
        self._before_id = before_id
        self._names = names
        self._finder = MarkFinder((opening,))
        self._content = ContentSpacing()
        self._head: str | None = None
        self._arguments: JsonValue | None = None
        self._held = ""

    def feed(self, text: str) -> list[ChatEvent]:
        """What is certain after more text."""
        events: list[ChatEvent] = []
        rest, self._held = self._held + text, ""
        while rest:
            if self._arguments is not None:
                rest = self._feed_arguments(self._arguments, rest, events)
            elif self._head is not None:
                rest = self._feed_head(self._head, rest, events)
            else:
                before, mark, behind = self._finder.split(rest)
                events += self._content.add(before)
                if mark is None:
                    self._held = behind
                    break
                self._head, rest = "", behind
        return events

    def finish(self) -> list[ChatEvent]:
        """What is left at the end of the text."""
        head = "" if self._head is None else self._opening + self._head
        return [*self._content.add(head + self._held), *self._content.finish()]

    def _feed_head(self, head: str, text: str, events: list[ChatEvent]) -> str:
        """The name and what stands before the arguments; the rest of the text."""
        before, brace, behind = text.partition("{")
        head += before
        name = head.partition(self._before_arguments)[0].partition(self._before_id)[0].strip()
        if brace and name in self._names:
            self._head, self._arguments = None, JsonValue()
            self._content.called()
            events.append(CallStart(name))
            return brace + behind
        if brace or len(head) > _MAX_HEAD or self._opening in head:
            self._head = None
            events += self._content.add(self._opening)
            return head + brace + behind
        self._head = head
        return ""

    def _feed_arguments(self, scanner: JsonValue, text: str, events: list[ChatEvent]) -> str:
        length = scanner.feed(text)
        events.append(ArgumentsPiece(text[:length]))
        if scanner.is_complete:
            self._arguments = None
            events.append(CallEnd())
        return text[length:]
