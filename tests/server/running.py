"""The application behind a real socket, in the test's own event loop."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.types import ASGIApp

from tests.server.served import WINDOW, RecitingEngine, make_app
from transom.server.lifecycle import Lifecycle
from transom.server.serving import bind, serve
from transom.server.settings import ServerSettings


@dataclass
class Running:
    """A server that answers."""

    port: int
    lifecycle: Lifecycle
    task: asyncio.Task[None]
    engines: tuple[RecitingEngine, ...] = field(default=())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def signal(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    async def is_up(self) -> None:
        """The listening socket takes connections before the server does; its first answer is the sign."""
        await self.raw(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")

    async def raw(self, data: bytes, *, patience: float = 5.0) -> bytes:
        """Everything the server says to these bytes until it closes the connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(data)
            return await asyncio.wait_for(reader.read(), patience)
        finally:
            writer.close()


@asynccontextmanager
async def running(
    *engines: RecitingEngine,
    settings: ServerSettings | None = None,
    template: str | None = None,
    window: int = WINDOW,
) -> AsyncIterator[Running]:
    """Serves on a free port; stops as on a signal when the block ends."""
    settings = settings or ServerSettings(port=0, drain_timeout=2)
    lifecycle = Lifecycle()
    app = make_app(*engines, settings=settings, lifecycle=lifecycle, template=template, window=window)
    async with running_app(app, lifecycle, settings) as server:
        server.engines = engines
        yield server


@asynccontextmanager
async def running_app(app: ASGIApp, lifecycle: Lifecycle, settings: ServerSettings) -> AsyncIterator[Running]:
    """The same for an application that was made elsewhere with this lifecycle."""
    listener: socket.socket = bind("127.0.0.1", 0)

    async def prepare() -> bool:
        return True

    task = asyncio.create_task(serve(app, listener, settings, lifecycle, prepare))
    server = Running(listener.getsockname()[1], lifecycle, task)
    try:
        await server.is_up()
        yield server
    finally:
        if not task.done():
            server.signal()
        await asyncio.wait_for(task, 10)
        listener.close()
