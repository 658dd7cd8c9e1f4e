"""The outermost layer: request ids, safe headers, and the last net under every exception. Pure ASGI.

It makes the request's record, in which whoever answers notes what he knows, and tells at the end what is in it: one
line in the log, with method, path (its template, where a route was found), status and numbers; never a body, a query or
a key. It counts answers of routes that name a model, and errors of all.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from transom.metrics import UNKNOWN_MODEL, MetricsCollector
from transom.server.errors import reply_to
from transom.server.request_record import RequestRecord

if TYPE_CHECKING:
    from transom.server.tracing import Tracing

_log = logging.getLogger("transom.access")
_failures = logging.getLogger("transom.server")
CLIENT_GONE = 499
"""Status of requests whose client did not wait for the end; nobody sees it but log and metrics."""

MoreHeaders = Callable[[Scope], Mapping[str, str]]
_MAX_PATH_CHARACTERS = 128
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class OuterLayer:
    """Wraps the whole application. `headers` says, from a request's scope, what else every answer carries."""

    def __init__(
        self, app: ASGIApp, metrics: MetricsCollector, headers: MoreHeaders, tracing: Tracing | None = None
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._headers = headers
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            exchange = _Exchange(self._app, scope, send, self._headers)
            await exchange.run(receive)
            exchange.report(self._metrics, self._tracing)
        elif scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})


class _Exchange:
    """One request and its answer."""

    def __init__(self, app: ASGIApp, scope: Scope, send: Send, more_headers: MoreHeaders) -> None:
        self._app = app
        self._scope = scope
        self._send = send
        self._more_headers = more_headers
        self._status = 0
        self._record = RequestRecord(_request_id(scope))
        self._seconds = 0.0
        scope.setdefault("state", {})["record"] = self._record

    async def run(self, receive: Receive) -> None:
        try:
            await self._app(self._scope, receive, self._forward)
        except ClientDisconnect:
            self._status = CLIENT_GONE
        except Exception as error:  # noqa: BLE001 - the last net: everything becomes an answer and a log entry
            await self._answer(error, receive)
        self._seconds = time.perf_counter() - self._record.arrived

    def report(self, metrics: MetricsCollector, tracing: Tracing | None) -> None:
        """Writes the log line, counts the answer and tells its trace."""
        record = self._record
        status = record.failed_with or self._status
        if _log.isEnabledFor(logging.INFO):
            self._log(status)
        if tracing is not None:
            tracing.tell(record, self._scope, self._route, status)
        if record.model is not None:
            metrics.count_request(record.model, status)
            metrics.observe_request(record.model, self._seconds)
        if status >= 400 and status != CLIENT_GONE:
            metrics.count_refusal(record.model or UNKNOWN_MODEL, record.error_code)
        if record.over_quota is not None:
            metrics.count_quota_refusal(record.model or UNKNOWN_MODEL, *record.over_quota)

    @property
    def _route(self) -> str:
        """The path's template, where a route was found."""
        return getattr(self._scope.get("route"), "path", None) or _safe_path(self._scope)

    def _log(self, status: int) -> None:
        method = self._scope["method"] if self._scope["method"] in _METHODS else "?"
        route = self._route
        fields = {"method": method, "route": route, "status": status, "duration_seconds": round(self._seconds, 6)}
        _log.info("%s %s %d", method, route, status, extra={**fields, **self._record.log_fields()})

    async def _forward(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self._record.request_id
            headers["x-content-type-options"] = "nosniff"
            headers.update(self._more_headers(self._scope))
        await self._send(message)

    async def _answer(self, error: Exception, receive: Receive) -> None:
        reply = reply_to(error)
        self._record.note_error(error, reply)
        if reply.status == 500:
            _failures.error(
                "request %s failed", self._record.request_id, extra=self._record.log_fields(), exc_info=error
            )
        if self._status:
            return  # the answer has begun; closing the connection early is all that is left
        await reply.response()(self._scope, receive, self._forward)


def _safe_path(scope: Scope) -> str:
    """The path as it was asked for; nothing in it can break a line of the log."""
    return quote(scope["path"][:_MAX_PATH_CHARACTERS])


def _request_id(scope: Scope) -> str:
    """The caller's own id when it is harmless, a fresh one otherwise."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            text = value.decode("latin-1")
            if _REQUEST_ID.fullmatch(text):
                return str(text)
    return uuid.uuid4().hex
