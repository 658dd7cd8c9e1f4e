"""Frames between the API process and a worker: what may be said, and how it lies on the wire.

    frame   = length (4 bytes, big-endian, of the payload) payload
    payload = msgpack of [message name, [field, field, ...]]

Both ends check everything against the message's type hints. Sizes are bounded before anything is allocated. No pickle.
Pure bytes: sockets live in `worker_connection` (worker) and `worker_process` (API process).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import msgpack  # type: ignore[import-untyped]

from transom.config.engine_config import EngineConfig
from transom.config.model_config import ModelConfig
from transom.engine.error_data import ErrorData
from transom.engine.plain_data import from_plain, to_plain
from transom.engine.reports import EngineStats, EngineView, LoadProgress, LoadReport
from transom.errors import ChannelError
from transom.request import Request, RequestOutput

MAX_PAYLOAD_BYTES = 64 * 2**20
HEADER_BYTES = 4

_HEADER = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class Configure:
    """To the worker, first: what to load."""

    model_config: ModelConfig
    engine_config: EngineConfig


@dataclass(frozen=True, slots=True)
class Submit:
    """To the worker: generate. Answered by `Outputs` that name the request, or by `Refused`."""

    request: Request


@dataclass(frozen=True, slots=True)
class Abort:
    """To the worker: stop generating; unknown ids are ignored."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Loading:
    """From the worker, before `Ready` or `Failed`, any number of times: how far the weights are."""

    progress: LoadProgress


@dataclass(frozen=True, slots=True)
class Look:
    """To the worker: tell what you see. Answered by `View`, between two steps."""


@dataclass(frozen=True, slots=True)
class Ready:
    """From the worker: the model is loaded."""

    report: LoadReport


@dataclass(frozen=True, slots=True)
class Failed:
    """From the worker, last: it cannot load the model."""

    error: ErrorData


@dataclass(frozen=True, slots=True)
class Refused:
    """From the worker: the request was not taken."""

    request_id: str
    error: ErrorData


@dataclass(frozen=True, slots=True)
class Outputs:
    """From the worker: what one or more steps brought."""

    outputs: tuple[RequestOutput, ...]


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """From the worker, at least every second: it is alive, and this is how it does."""

    stats: EngineStats


@dataclass(frozen=True, slots=True)
class View:
    """From the worker: what there was to see."""

    view: EngineView


Message = Configure | Submit | Abort | Look | Loading | Ready | Failed | Refused | Outputs | Heartbeat | View

_MESSAGES: dict[str, type[Message]] = {
    message.__name__: message
    for message in (Configure, Submit, Abort, Look, Loading, Ready, Failed, Refused, Outputs, Heartbeat, View)
}


def encode(message: Message) -> bytes:
    """The whole frame; ChannelError when the payload would be larger than MAX_PAYLOAD_BYTES."""
    try:
        payload = bytes(msgpack.packb([type(message).__name__, to_plain(message)]))
    except (OverflowError, ValueError) as error:
        raise ChannelError(f"{type(message).__name__} cannot be encoded: {error}") from error
    return _HEADER.pack(_checked_length(len(payload))) + payload


def payload_length(header: bytes | bytearray | memoryview) -> int:
    """Length of the payload behind `header` (HEADER_BYTES); ChannelError beyond the bound."""
    return _checked_length(_HEADER.unpack(header)[0])


def decode(payload: bytes | bytearray | memoryview) -> Message:
    """The message in one payload; ChannelError for anything that is not exactly one known message."""
    name, fields = _name_and_fields(payload)
    message = _MESSAGES.get(name) if isinstance(name, str) else None
    if message is None:
        raise ChannelError("a frame carries an unknown message")
    return from_plain(message, fields)


def _name_and_fields(payload: bytes | bytearray | memoryview) -> tuple[Any, Any]:
    try:
        plain = msgpack.unpackb(payload, strict_map_key=False)
    except (ValueError, TypeError, msgpack.exceptions.UnpackException, RecursionError) as error:
        raise ChannelError(f"a frame is damaged: {error}") from error
    if type(plain) is not list or len(plain) != 2:
        raise ChannelError("a frame carries no message")
    return plain[0], plain[1]


def _checked_length(num_bytes: int) -> int:
    if num_bytes > MAX_PAYLOAD_BYTES:
        raise ChannelError(f"a frame of {num_bytes} bytes is larger than {MAX_PAYLOAD_BYTES}")
    return num_bytes


class FrameReader:
    """Cuts a stream of bytes into messages. One owner; no I/O."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """Messages that `data` completes, in order; raises ChannelError for a damaged stream."""
        self._buffer += data
        messages = []
        while (payload := self._take_payload()) is not None:
            messages.append(decode(payload))
        return messages

    def _take_payload(self) -> bytes | None:
        if len(self._buffer) < HEADER_BYTES:
            return None
        end = HEADER_BYTES + payload_length(self._buffer[:HEADER_BYTES])
        if len(self._buffer) < end:
            return None
        payload = bytes(self._buffer[HEADER_BYTES:end])
        del self._buffer[:end]
        return payload
