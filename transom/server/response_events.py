"""`ResponseWriter`: the answer of /v1/responses while it comes into being, and the typed events that tell of it.

Pure: fed with pieces of text, calls and the end; streams its events, or keeps only the response that they add up to.
Every event carries what it changes, the first two and the last one the whole response.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

Event = dict[str, Any]
Delta = dict[str, Any]
"""What a chat's delta holds: `content`, `reasoning_content`, `tool_calls`."""


@dataclass(slots=True)
class _TextKind:
    """How an item that is made of one text is written."""

    item_type: str
    id_prefix: str
    part_type: str
    event: str


_MESSAGE = _TextKind("message", "msg", "output_text", "response.output_text")
_REASONING = _TextKind("reasoning", "rs", "reasoning_text", "response.reasoning_text")


class _TextItem:
    """A message, or what the model thought before it: one part with a text."""

    def __init__(self, kind: _TextKind, index: int) -> None:
        self.kind, self.index = kind, index
        self._id = f"{kind.id_prefix}_{uuid.uuid4().hex}"
        self._text: list[str] = []
        self._logprobs: list[dict[str, Any]] = []

    def begin(self) -> Iterator[Event]:
        yield {"type": "response.output_item.added", "output_index": self.index, "item": self._item("in_progress", [])}
        yield {"type": "response.content_part.added", **self._place, "part": self._part("", [])}

    def add(self, text: str, logprobs: list[dict[str, Any]]) -> Iterator[Event]:
        self._text.append(text)
        self._logprobs += logprobs
        shown = {"logprobs": logprobs} if self.kind is _MESSAGE else {}
        yield {"type": f"{self.kind.event}.delta", **self._place, "delta": text, **shown}

    def end(self, status: str) -> Iterator[Event]:
        text = "".join(self._text)
        shown = {"logprobs": self._logprobs} if self.kind is _MESSAGE else {}
        yield {"type": f"{self.kind.event}.done", **self._place, "text": text, **shown}
        yield {"type": "response.content_part.done", **self._place, "part": self._part(text, self._logprobs)}
        yield {"type": "response.output_item.done", "output_index": self.index, "item": self.whole(status)}

    def whole(self, status: str) -> dict[str, Any]:
        return self._item(status, [self._part("".join(self._text), self._logprobs)])

    @property
    def _place(self) -> dict[str, Any]:
        return {"item_id": self._id, "output_index": self.index, "content_index": 0}

    def _item(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        own: dict[str, Any] = {"role": "assistant"} if self.kind is _MESSAGE else {"summary": []}
        return {"id": self._id, "type": self.kind.item_type, "status": status, **own, "content": content}

    def _part(self, text: str, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
        own = {"annotations": [], "logprobs": logprobs} if self.kind is _MESSAGE else {}
        return {"type": self.kind.part_type, "text": text, **own}


class _CallItem:
    """A function that the model calls."""

    def __init__(self, call: dict[str, Any], index: int) -> None:
        self.index = index
        self.call_index: int = call["index"]
        self._id = f"fc_{uuid.uuid4().hex}"
        self._call_id: str = call["id"]
        self._name: str = call["function"]["name"]
        self._arguments: list[str] = []

    def begin(self) -> Iterator[Event]:
        item = self._item("in_progress", "")
        yield {"type": "response.output_item.added", "output_index": self.index, "item": item}

    def add(self, arguments: str) -> Iterator[Event]:
        self._arguments.append(arguments)
        yield {"type": "response.function_call_arguments.delta", **self._place, "delta": arguments}

    def end(self, status: str) -> Iterator[Event]:
        arguments = "".join(self._arguments)
        done = {"type": "response.function_call_arguments.done", **self._place, "name": self._name}
        yield {**done, "arguments": arguments}
        yield {"type": "response.output_item.done", "output_index": self.index, "item": self.whole(status)}

    def whole(self, status: str) -> dict[str, Any]:
        return self._item(status, "".join(self._arguments))

    @property
    def _place(self) -> dict[str, Any]:
        return {"item_id": self._id, "output_index": self.index}

    def _item(self, status: str, arguments: str) -> dict[str, Any]:
        own = {"call_id": self._call_id, "name": self._name, "arguments": arguments}
        return {"id": self._id, "type": "function_call", "status": status, **own}


@dataclass(slots=True)
class ResponseWriter:
    """One response. `begin`, then `add` as often as there is something, then `end` or `fail`."""

    envelope: dict[str, Any]
    """Everything of the response that is known beforehand."""
    _output: list[dict[str, Any]] = field(default_factory=list)
    _current: _TextItem | _CallItem | None = None
    _num_events: int = 0

    def begin(self) -> list[Event]:
        """The two first events."""
        response = self._response("in_progress")
        names = ("response.created", "response.in_progress")
        return self._numbered({"type": name, "response": response} for name in names)

    def add(self, delta: Delta, logprobs: list[dict[str, Any]]) -> list[Event]:
        """The events of more text, or of more of a call."""
        return self._numbered(self._added(delta, logprobs))

    def end(self, incomplete: str | None, usage: dict[str, Any]) -> list[Event]:
        """The last events. `incomplete` is the reason why the answer was cut, None for a whole one."""
        return self._numbered(self._ended(incomplete, usage))

    def fail(self, code: str, message: str) -> list[Event]:
        """The last event of an answer that will never be complete."""
        response = self._response("failed", error={"code": code, "message": message})
        return self._numbered(iter([{"type": "response.failed", "response": response}]))

    def response(self, incomplete: str | None, usage: dict[str, Any]) -> dict[str, Any]:
        """The whole, as the last event of `end` has it; for answers in one piece."""
        response: dict[str, Any] = self.end(incomplete, usage)[-1]["response"]
        return response

    def _added(self, delta: Delta, logprobs: list[dict[str, Any]]) -> Iterator[Event]:
        for call in delta.get("tool_calls") or ():
            yield from self._add_to_call(call)
        if delta.get("reasoning_content"):
            yield from self._add_text(_REASONING, delta["reasoning_content"], [])
        if delta.get("content") or logprobs:
            yield from self._add_text(_MESSAGE, delta.get("content") or "", logprobs)

    def _add_text(self, kind: _TextKind, text: str, logprobs: list[dict[str, Any]]) -> Iterator[Event]:
        item = self._current
        if not isinstance(item, _TextItem) or item.kind is not kind:
            yield from self._end_item("completed")
            item = self._current = _TextItem(kind, len(self._output))
            yield from item.begin()
        yield from item.add(text, logprobs)

    def _add_to_call(self, call: dict[str, Any]) -> Iterator[Event]:
        item = self._current
        if not isinstance(item, _CallItem) or item.call_index != call["index"]:
            yield from self._end_item("completed")
            item = self._current = _CallItem(call, len(self._output))
            yield from item.begin()
        if arguments := call["function"].get("arguments"):
            yield from item.add(arguments)

    def _ended(self, incomplete: str | None, usage: dict[str, Any]) -> Iterator[Event]:
        status = "completed" if incomplete is None else "incomplete"
        if self._current is None:
            yield from self._add_text(_MESSAGE, "", [])
        yield from self._end_item(status)
        details = None if incomplete is None else {"reason": incomplete}
        response = self._response(status, incomplete_details=details, usage=usage)
        yield {"type": f"response.{status}", "response": response}

    def _end_item(self, status: str) -> Iterator[Event]:
        if self._current is not None:
            yield from self._current.end(status)
            self._output.append(self._current.whole(status))
            self._current = None

    def _response(self, status: str, **changes: Any) -> dict[str, Any]:
        open_ended = {"error": None, "incomplete_details": None, "usage": None}
        return {**self.envelope, "status": status, **open_ended, "output": list(self._output), **changes}

    def _numbered(self, events: Iterator[Event]) -> list[Event]:
        numbered = [{**event, "sequence_number": self._num_events + number} for number, event in enumerate(events)]
        self._num_events += len(numbered)
        return numbered
