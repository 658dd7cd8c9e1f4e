"""Serves an application over HTTP until told to stop: socket, protocol limits, signals. Wraps uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import h11
import orjson
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from transom.errors import ConfigError
from transom.server.errors import INVALID_REQUEST, ErrorReply
from transom.server.host_guard import MAX_HEADER_BYTES
from transom.server.lifecycle import Lifecycle
from transom.server.settings import ServerSettings

KEEP_ALIVE_SECONDS = 30
_BACKLOG = 512
_LINGER_SECONDS = 1.0
"""A request that was answered before its body came is read so long, so that the answer is not lost with the rest."""
_LAST_WORDS_SECONDS = 2
"""After the cut, answers get so long to write their error events."""
_OTHER_PORT = '; choose another one by --port N (make serve ARGS="--port N")'


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises `ConfigError` when the address cannot be had.

    It names its protocol, and so do the connections that come from it: asyncio sends small writes at once (TCP_NODELAY)
    on those alone, on others the body of an answer waits 40 ms for the acknowledgement of its headers.
    """
    try:
        [(family, _, _, _, address), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}: {error.strerror or error}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        hint = _OTHER_PORT if error.errno == errno.EADDRINUSE else ""
        raise ConfigError(f"cannot listen on {host} port {port}: {error.strerror or error}{hint}") from None
    return listener


async def serve(
    app: ASGIApp,
    listener: socket.socket,
    settings: ServerSettings,
    lifecycle: Lifecycle,
    prepare: Callable[[], Awaitable[bool]],
) -> None:
    """Answers requests from the first moment, runs `prepare` meanwhile, and stops on SIGTERM, SIGINT or its False.

    The first signal drains: nothing new is taken, running answers get `settings.drain_timeout` seconds. The second one
    stops at once. Must run in the main thread, whose signal handlers it replaces meanwhile.
    """
    server = _Server(_uvicorn_config(app, settings))
    with _on_signals(lambda: _take_signal(server, lifecycle)):
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        preparing = asyncio.create_task(_prepare(prepare, server))
        stopping = asyncio.create_task(_drain(server, lifecycle, settings.drain_timeout))
        try:
            await serving
        finally:
            for task in (preparing, stopping):
                task.cancel()
            results = await asyncio.gather(preparing, stopping, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result


@contextlib.asynccontextmanager
async def serving_beside(app: ASGIApp, listener: socket.socket | None) -> AsyncIterator[None]:
    """Answers on a further socket, if there is one, as long as the block runs; then nobody waits for its answers."""
    if listener is None:
        yield
        return
    server = _Server(_uvicorn_config(app, ServerSettings()))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = server.force_exit = True
        await serving


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are taken by `serve`."""
        yield


class LimitedProtocol(H11Protocol):
    """HTTP/1.1 with a limit on the time that a request's headers may take, and no patience for unwanted bodies.

    The connection of a reader that takes nothing for a while is reset, with whatever was not sent.
    """

    _header_timer: asyncio.TimerHandle | None = None
    _reader_timer: asyncio.TimerHandle | None = None
    header_timeout = 10.0
    slow_reader_timeout = 60.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        _limit_unread(transport, self.slow_reader_timeout)
        self._watch_headers()

    def pause_writing(self) -> None:
        """More waits to be sent than should: the reader has so long to take most of it."""
        super().pause_writing()
        self._reader_timer = self.loop.call_later(self.slow_reader_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_reader_timer()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_headers()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self.loop.call_later(_LINGER_SECONDS, self._close_unless_read, self.cycle)
        self._watch_headers()

    def _close_unless_read(self, answered: object) -> None:
        """The rest of an answered request may have come meanwhile; then the connection goes on with the next one."""
        if self.cycle is answered and self.conn.their_state is h11.SEND_BODY:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """What cannot even be parsed is answered in the form of every other error, then the connection is closed."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = orjson.dumps(ErrorReply(400, msg, INVALID_REQUEST, "invalid_value").body())
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
                (b"x-request-id", uuid.uuid4().hex.encode()),
            ]
            for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._stop_reader_timer()
        super().connection_lost(exc)

    def _watch_headers(self) -> None:
        """The timer runs while a request has begun and its headers are not complete, and before the first request."""
        waiting = self.conn.their_state is h11.IDLE
        if not waiting:
            self._stop_timer()
        elif self._header_timer is None and (self.cycle is None or self.conn.trailing_data[0]):
            self._header_timer = self.loop.call_later(self.header_timeout, self.transport.close)

    def _stop_reader_timer(self) -> None:
        if self._reader_timer is not None:
            self._reader_timer.cancel()
            self._reader_timer = None

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None


def _uvicorn_config(app: ASGIApp, settings: ServerSettings) -> uvicorn.Config:
    limits = {"header_timeout": settings.header_timeout, "slow_reader_timeout": settings.slow_reader_timeout}
    protocol = type("_Protocol", (LimitedProtocol,), limits)
    return uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="off",
        loop="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_LAST_WORDS_SECONDS,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
    )


def _limit_unread(transport: asyncio.Transport, seconds: float) -> None:
    """For what is left when a connection is closed: the kernel gives it up when the peer takes nothing for so long.

    Unix sockets have no such option, and need none: their peers are here, and what is left ends with them.
    """
    connection = transport.get_extra_info("socket")
    if connection.family == socket.AF_UNIX:
        return
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))


async def _prepare(prepare: Callable[[], Awaitable[bool]], server: _Server) -> None:
    try:
        may_go_on = await prepare()
    except BaseException:
        server.should_exit = True
        raise
    if not may_go_on:
        server.should_exit = True


def _take_signal(server: _Server, lifecycle: Lifecycle) -> None:
    if lifecycle.draining:
        server.force_exit = True
        lifecycle.cut.set()
    lifecycle.begin_draining()


async def _drain(server: _Server, lifecycle: Lifecycle, timeout_seconds: float) -> None:
    """Stops the server when the answers have ended or been cut. Until then it listens, for those who ask how it is."""
    await lifecycle.until_draining()
    await lifecycle.drain(timeout_seconds)
    server.should_exit = True


@contextlib.contextmanager
def _on_signals(take: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, take)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
