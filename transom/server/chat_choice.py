"""One choice of a chat answer in OpenAI's words: its text, reasoning and tool calls, in pieces or as a whole."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Any

from transom.llm.chat_events import ArgumentsPiece, CallEnd, CallStart, ChatEvent, ContentPiece, ReasoningPiece
from transom.llm.chat_format import AnswerParser
from transom.server.choices import Piece

Delta = dict[str, Any]


class ChatChoice:
    """Fed with one sequence, in pieces or as a whole."""

    def __init__(self, parser: AnswerParser, call_id: Callable[[], str], *, include_reasoning: bool) -> None:
        self._parser = parser
        self._call_id = call_id
        self._include_reasoning = include_reasoning
        self._num_calls = 0
        self._text_offsets = array("i")

    @property
    def has_called(self) -> bool:
        """A call is complete: the answer ended with it, not with its text."""
        return self._parser.has_called

    @property
    def num_reasoning_tokens(self) -> int:
        """Tokens so far that begin within the reasoning, its marks included."""
        end = self._parser.reasoning_end
        return len(self._text_offsets) if end is None else bisect_left(self._text_offsets, end)

    def feed(self, piece: Piece) -> list[Delta]:
        """The `delta` objects that more text comes to; neighbours of one kind are one."""
        self._text_offsets.extend(piece.text_offsets)
        events = self._parser.feed(piece.text)
        events += self._parser.finish() if piece.finish_reason is not None else []
        deltas: list[Delta] = []
        for delta in self._deltas(events):
            if not (deltas and _join(deltas[-1], delta)):
                deltas.append(delta)
        return deltas

    def _deltas(self, events: Iterable[ChatEvent]) -> Iterable[Delta]:
        for event in events:
            match event:
                case ContentPiece(text):
                    yield {"content": text}
                case ReasoningPiece(text) if self._include_reasoning:
                    yield {"reasoning_content": text}
                case CallStart(name):
                    function = {"name": name, "arguments": ""}
                    call = {"index": self._num_calls, "id": self._call_id(), "type": "function", "function": function}
                    self._num_calls += 1
                    yield {"tool_calls": [call]}
                case ArgumentsPiece(text):
                    yield {"tool_calls": [{"index": self._num_calls - 1, "function": {"arguments": text}}]}
                case CallEnd() | ReasoningPiece():
                    pass


def message_of(deltas: Iterable[Delta]) -> dict[str, Any]:
    """The whole message of all its deltas. `content` is null where there are calls and nothing else."""
    content, reasoning, calls = "", "", list[dict[str, Any]]()
    for delta in deltas:
        content += delta.get("content", "")
        reasoning += delta.get("reasoning_content", "")
        for call in delta.get("tool_calls", ()):
            if "id" in call:
                calls.append({"id": call["id"], "type": "function", "function": dict(call["function"])})
            else:
                calls[call["index"]]["function"]["arguments"] += call["function"]["arguments"]
    message: dict[str, Any] = {
        "role": "assistant",
        "content": content if content or not calls else None,
        "refusal": None,
    }
    if reasoning:
        message["reasoning_content"] = reasoning
    return {**message, "tool_calls": calls} if calls else message


def _join(last: Delta, delta: Delta) -> bool:
    """Adds `delta` to the one before it, if it goes on with the same; False if it does not."""
    [(kind, value)] = delta.items()
    if kind not in last:
        return False
    if kind != "tool_calls":
        last[kind] += value
        return True
    if "id" in value[0]:
        return False
    last[kind][0]["function"]["arguments"] += value[0]["function"]["arguments"]
    return True
