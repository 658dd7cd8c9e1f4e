"""Feeds a reader with text in pieces, and puts together what it tells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from transom.llm.chat_events import ArgumentsPiece, CallEnd, CallStart, ContentPiece, ReasoningPiece

Event = ContentPiece | ReasoningPiece | CallStart | ArgumentsPiece | CallEnd


class Reader(Protocol):
    def feed(self, text: str) -> Sequence[Event]: ...
    def finish(self) -> Sequence[Event]: ...


@dataclass
class Read:
    """An answer."""

    content: str = ""
    reasoning: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    """(name, arguments)"""
    num_complete: int = 0


def read(reader: Reader, text: str, cuts: Iterable[int] = ()) -> Read:
    """The answer in `text`, cut at these places."""
    answer, last = Read(), 0
    for cut in [*sorted(cuts), len(text)]:
        _take(answer, reader.feed(text[last:cut]))
        last = cut
    _take(answer, reader.finish())
    return answer


def _take(answer: Read, events: Sequence[Event]) -> None:
    for event in events:
        match event:
            case ContentPiece(text):
                answer.content += text
            case ReasoningPiece(text):
                answer.reasoning += text
            case CallStart(name):
                answer.calls.append((name, ""))
            case ArgumentsPiece(text):
                name, arguments = answer.calls[-1]
                answer.calls[-1] = (name, arguments + text)
            case CallEnd():
                answer.num_complete += 1
                assert answer.num_complete == len(answer.calls)
