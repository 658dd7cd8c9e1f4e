"""Calls in JSON behind a mark, or at the start of the text: the reader that most formats share."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from transom.llm.chat_events import ChatEvent
from transom.llm.tool_parsers.content_spacing import MAX_SPACE, ContentSpacing
from transom.llm.tool_parsers.json_calls import JsonCalls, Status
from transom.llm.tool_parsers.marks import MarkFinder


@dataclass(frozen=True, slots=True)
class Markup:
    """Where calls stand."""

    opening: tuple[str, ...]
    """Calls follow one of these, anywhere in the text."""
    closing: str = ""
    """And are followed by this."""
    at_start: str = ""
    """Calls also follow the start of the text, if that is one of these characters."""
    argument_keys: Sequence[str] = ("arguments",)
    several: bool = True
    """More than one call may stand in one place."""


class MarkedCalls:
    """Text outside is content. Space around calls belongs to them."""

    def __init__(self, markup: Markup, names: Collection[str]) -> None:
        self._markup = markup
        self._names = names
        self._finder = MarkFinder(markup.opening)
        self._content = ContentSpacing()
        self._is_at_start = bool(markup.at_start)
        self._calls: JsonCalls | None = None
        self._opened = ""
        self._is_closing = False
        self._held = ""

    def feed(self, text: str) -> list[ChatEvent]:
        """What is certain after more text."""
        events: list[ChatEvent] = []
        rest, self._held = self._held + text, ""
        while rest and not self._held:
            if self._calls is not None:
                rest = self._feed_calls(self._calls, rest, events)
            elif self._is_closing:
                rest = self._feed_closing(rest)
            elif self._is_at_start:
                rest = self._feed_start(rest)
            else:
                rest = self._feed_text(rest, events)
        return events

    def finish(self) -> list[ChatEvent]:
        """What is left at the end of the text: what was no call after all."""
        left = "" if self._is_closing else self._held
        if self._calls is not None and not self._calls.is_at_end:
            left = self._opened + self._calls.unread
        return [*self._content.add(left), *self._content.finish()]

    def _feed_start(self, text: str) -> str:
        """White space is held until it is known what the text starts with."""
        start = text.lstrip()
        if not start and len(text) <= MAX_SPACE:
            self._held = text
            return ""
        self._is_at_start = False
        if not start or start[0] not in self._markup.at_start:
            return text
        self._open(text[: len(text) - len(start)])
        return start

    def _feed_text(self, text: str, events: list[ChatEvent]) -> str:
        before, mark, behind = self._finder.split(text)
        events += self._content.add(before)
        if mark is None:
            self._held = behind
            return ""
        self._open(mark)
        return behind

    def _open(self, opened: str) -> None:
        self._opened = opened
        self._calls = JsonCalls(self._names, self._markup.argument_keys, several=self._markup.several)

    def _feed_calls(self, calls: JsonCalls, text: str, events: list[ChatEvent]) -> str:
        told, rest = calls.feed(text)
        if told:
            events += told
            self._opened = ""
            self._content.called()
        if calls.status is not Status.GOING_ON:
            self._calls = None
            self._is_closing = calls.status is Status.DONE and bool(self._markup.closing)
            if calls.status is Status.FAILED:
                events += self._content.add(self._opened + calls.unread)
        return rest

    def _feed_closing(self, text: str) -> str:
        """The closing mark, if that is what comes."""
        stripped, closing = text.lstrip(), self._markup.closing
        if len(stripped) < len(closing) and closing.startswith(stripped) and len(text) <= MAX_SPACE:
            self._held = text
            return ""
        self._is_closing = False
        return stripped.removeprefix(closing)
