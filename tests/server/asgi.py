"""A client that talks ASGI to the application itself: no socket, no thread, and it can go away at any moment."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message

Headers = Sequence[tuple[str, str]]
JSON_HEADERS: Headers = (("content-type", "application/json"), ("host", "localhost:9632"))


@dataclass
class Answer:
    """What came back."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_complete: bool = False

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error object; its form is checked here, for every test."""
        error: dict[str, Any] = self.json()["error"]
        assert {"message", "type", "param", "code"} <= error.keys()
        assert isinstance(error["message"], str)
        return error

    def events(self) -> list[Any]:
        """The payloads of an event stream; `[DONE]` as a text."""
        lines = [line for line in self.body.decode().split("\n\n") if line.startswith("data: ")]
        return [line if line == "[DONE]" else json.loads(line) for line in (raw[6:] for raw in lines)]


class Exchange:
    """One request under way."""

    def __init__(
        self, app: ASGIApp, method: str, path: str, body: bytes = b"", headers: Headers = JSON_HEADERS
    ) -> None:
        self.answer = Answer()
        self.gone = asyncio.Event()
        self.arrived = asyncio.Event()
        """Set when bytes of the body came."""
        self._chunks = [body]
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path.partition("?")[0],
            "raw_path": path.partition("?")[0].encode(),
            "root_path": "",
            "query_string": path.partition("?")[2].encode(),
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 9632),
            "state": {},
        }
        self.task: asyncio.Task[None] = asyncio.create_task(self._run(app))

    async def _run(self, app: ASGIApp) -> None:
        await app(self._scope, self._receive, self._send)

    async def _receive(self) -> Message:
        if self._chunks:
            return {"type": "http.request", "body": self._chunks.pop(), "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.answer.status = message["status"]
            self.answer.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.answer.body += message.get("body", b"")
            self.answer.is_complete = not message.get("more_body", False)
            self.arrived.set()


async def ask(
    app: ASGIApp, method: str, path: str, body: Any = None, *, raw: bytes | None = None, headers: Headers = JSON_HEADERS
) -> Answer:
    """The whole answer to one request."""
    data = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
    exchange = Exchange(app, method, path, data, headers)
    await asyncio.wait_for(exchange.task, 10)
    return exchange.answer


async def complete(app: ASGIApp, **body: Any) -> Answer:
    """POST /v1/completions to the model `tiny`."""
    return await ask(app, "POST", "/v1/completions", {"model": "tiny", "prompt": "abc", **body})


async def chat(app: ASGIApp, **body: Any) -> Answer:
    """POST /v1/chat/completions to the model `tiny`."""
    messages = [{"role": "user", "content": "Hello"}]
    return await ask(app, "POST", "/v1/chat/completions", {"model": "tiny", "messages": messages, **body})
