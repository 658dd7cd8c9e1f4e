"""Server-sent events: the answer of every streaming route.

Nothing leaves before the first event (or the first ping), so that a refusal still is a plain status with a JSON body.
What fails later becomes an error event, and then the closing `[DONE]`, or the event that says the same, is missing: a
cut answer cannot pass for a full one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from transom.server.errors import reply_to
from transom.server.interruption import Interruption, cancel, watch
from transom.server.lifecycle import Lifecycle
from transom.server.request_record import record_of

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"

_log = logging.getLogger("transom.server")
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


def encode_event(payload: dict[str, Any]) -> bytes:
    """One event: a line of JSON and an empty line."""
    return b"data: " + orjson.dumps(payload) + b"\n\n"


def encode_named_event(payload: dict[str, Any]) -> bytes:
    """One event whose kind, the payload's `type`, stands on a line of its own; an error body is of the kind `error`."""
    if (error := payload.get("error")) is not None and "type" not in payload:
        payload = {"type": "error", **{name: error[name] for name in ("code", "message", "param")}, **payload}
    return b"event: " + str(payload["type"]).encode() + b"\n" + encode_event(payload)


@dataclass(frozen=True, slots=True)
class EventForm:
    """How a route writes its events."""

    encode: Callable[[dict[str, Any]], bytes]
    closing: bytes
    """Behind the last event of a whole answer."""


PLAIN_EVENTS = EventForm(encode_event, DONE)
NAMED_EVENTS = EventForm(encode_named_event, b"")
"""Their last event says itself that it is the last one."""


class EventStream(Response):
    """Sends `payloads` as events, pings while they are silent, and closes their source when the client goes away."""

    def __init__(
        self,
        payloads: AsyncGenerator[dict[str, Any], None],
        lifecycle: Lifecycle,
        *,
        ping_interval: float | None,
        slow_reader_timeout: float,
        limit_seconds: float | None = None,
        form: EventForm = PLAIN_EVENTS,
    ) -> None:
        super().__init__()
        self._payloads = payloads
        self._lifecycle = lifecycle
        self._ping_interval = ping_interval
        self._slow_reader_timeout = slow_reader_timeout
        self._limit_seconds = limit_seconds
        self._form = form

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the whole answer. Raises what the first event raises; `ClientDisconnect` when nobody listens."""
        connection = _Connection(send, self._slow_reader_timeout)
        try:
            with self._lifecycle.answering():
                async with watch(receive, self._lifecycle, self._limit_seconds) as interruption:
                    await self._forward(connection, interruption)
        except ClientDisconnect:
            raise
        except Exception as error:
            if not connection.started:
                raise
            await _end_with_error(connection, error, scope, self._form)
        finally:
            await self._payloads.aclose()

    async def _forward(self, connection: _Connection, interruption: Interruption) -> None:
        while (payload := await self._next(connection, interruption)) is not None:
            await connection.write(self._form.encode(payload))
        await connection.write(self._form.closing, last=True)

    async def _next(self, connection: _Connection, interruption: Interruption) -> dict[str, Any] | None:
        """The next payload, None at the end; pings as long as it does not come."""
        upcoming = asyncio.ensure_future(anext(self._payloads, None))
        try:
            while not await interruption.wait(upcoming, self._ping_interval):
                await connection.write(PING)
            return await upcoming
        finally:
            if not upcoming.done():
                await cancel(upcoming)


class _Connection:
    """The sending side: headers with the first bytes, a time limit on a reader that takes nothing."""

    def __init__(self, send: Send, timeout_seconds: float) -> None:
        self._send = send
        self._timeout_seconds = timeout_seconds
        self.started = False

    async def write(self, data: bytes, *, last: bool = False) -> None:
        """Raises `ClientDisconnect` when the reader is too slow."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                if not self.started:
                    self.started = True
                    await self._send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
                await self._send({"type": "http.response.body", "body": data, "more_body": not last})
        except TimeoutError:
            raise ClientDisconnect from None


async def _end_with_error(connection: _Connection, error: Exception, scope: Scope, form: EventForm) -> None:
    reply = reply_to(error)
    record = record_of(scope)
    record.failed_with = reply.status
    record.note_error(error, reply)
    if reply.status == 500:
        _log.error("request %s failed in mid-stream", record.request_id, extra=record.log_fields(), exc_info=error)
    await connection.write(form.encode(reply.body()), last=True)
