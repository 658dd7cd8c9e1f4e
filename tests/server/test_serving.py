"""The server on a real socket: protocol limits, signals, draining."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.fakes import small_engine_config
from tests.server.running import Running, running, running_app
from tests.server.served import RecitingEngine, make_app, served_model
from transom.config.registry_config import ResourceQuota
from transom.errors import ConfigError
from transom.quotas import QuotaLedger, Quotas
from transom.registry import ModelRegistry
from transom.server.admin_socket import admin_listener
from transom.server.app import create_app
from transom.server.lifecycle import Lifecycle
from transom.server.serving import bind, serve, serving_beside
from transom.server.settings import ServerSettings

STREAM = json.dumps({"model": "tiny", "prompt": "x", "max_tokens": 200, "stream": True}).encode()


def post(body: bytes, *headers: str) -> bytes:
    lines = [
        "POST /v1/completions HTTP/1.1",
        "host: localhost",
        "content-type: application/json",
        f"content-length: {len(body)}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def get(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "host: localhost", *headers]).encode() + b"\r\n\r\n"


async def begin_stream(server: Running) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A stream whose first event has come."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(post(STREAM))
    await asyncio.wait_for(reader.readuntil(b"data: "), 5)
    return reader, writer


async def test_a_port_that_is_taken_is_said_in_words() -> None:
    async with running() as server:
        with pytest.raises(ConfigError, match=f"port {server.port}: Address already in use"):
            bind("127.0.0.1", server.port)
    with pytest.raises(ConfigError, match=r"cannot listen on no\.such\.host\.invalid"):
        bind("no.such.host.invalid", 0)


async def test_an_answer_on_a_kept_connection_does_not_wait_for_acknowledgements() -> None:
    """Where it does, every one but the first few takes 40 ms, however fast the machine is."""
    async with running() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        seconds = []
        for _ in range(40):
            begun = time.perf_counter()
            writer.write(get("/health/live"))
            headers = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
            await reader.readexactly(int(headers.partition(b"content-length: ")[2].split()[0]))
            seconds.append(time.perf_counter() - begun)
        writer.close()
    assert min(seconds[20:]) < 0.03


async def test_a_unix_socket_is_served_without_complaints(tmp_path: Path) -> None:
    complaints: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    with admin_listener(tmp_path / "admin") as listener:
        async with serving_beside(make_app(), listener):
            reader, writer = await asyncio.open_unix_connection(tmp_path / "admin")
            writer.write(get("/health/live", "connection: close"))
            answer = await asyncio.wait_for(reader.read(), 5)
            writer.close()
    assert b" 200 " in answer.split(b"\r\n")[0]
    assert complaints == []


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET /health\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: localhost\r\nhost: localhost\r\n\r\n",
        b"POST /tokenize HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
        b"POST /tokenize HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n{}",
        b"POST /tokenize HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n" + b"f" * 21 + b"\r\n",
    ],
    ids=range(8),
)
async def test_s21_malformed_requests_are_a_400_and_the_server_lives(data: bytes) -> None:
    async with running() as server:
        answer = await server.raw(data)
        assert b" 400 " in answer.split(b"\r\n")[0]
        assert json.loads(answer.split(b"\r\n\r\n")[-1])["error"]["type"] == "invalid_request_error"
        assert b" 200 " in await server.raw(get("/health", "connection: close"))


@pytest.mark.parametrize(
    "lines",
    [b"x: " + b"y" * 17_000 + b"\r\n", b"x: y\r\n" * 5000],
    ids=["one", "many"],
)
async def test_s21_headers_that_are_too_large_are_refused(lines: bytes) -> None:
    head = b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
    async with running() as server:
        answer = await server.raw(head + lines + b"\r\n")
    assert answer[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 431")


async def test_s21_a_body_of_chunks_is_counted_and_the_connection_closed() -> None:
    head = b"POST /tokenize HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    chunk = b"100000\r\n" + b"x" * 2**20 + b"\r\n"
    async with running() as server:
        answer = await server.raw(head + b"transfer-encoding: chunked\r\n\r\n" + chunk * 11)
    assert answer.startswith(b"HTTP/1.1 413")


async def test_s21_headers_that_never_end_are_cut_off() -> None:
    async with running(settings=ServerSettings(header_timeout=0.1, drain_timeout=2)) as server:
        assert await server.raw(b"GET /health HTTP/1.1\r\nhost: local", patience=3) == b""
        assert await server.raw(b"", patience=3) == b""


async def test_s21_a_websocket_upgrade_is_answered_as_plain_http() -> None:
    async with running() as server:
        data = get("/health", "connection: upgrade, close", "upgrade: websocket", "sec-websocket-version: 13")
        assert b" 200 " in (await server.raw(data)).split(b"\r\n")[0]


async def test_a_hundred_pipelined_requests_are_answered() -> None:
    async with running() as server:
        answers = await server.raw(get("/health") * 99 + get("/health", "connection: close"))
        assert answers.count(b"HTTP/1.1 200 OK") == 100
        assert b"server:" not in answers


async def test_a_connection_that_is_cut_in_mid_stream_aborts_the_engine() -> None:
    engine = RecitingEngine(holds_after=3)
    async with running(engine) as server:
        _, writer = await begin_stream(server)
        assert engine.running
        writer.close()
        async with asyncio.timeout(3):
            while engine.running or server.lifecycle.num_running:  # noqa: ASYNC110
                await asyncio.sleep(0.005)


async def test_the_first_signal_lets_streams_finish_and_new_requests_are_told() -> None:
    engine = RecitingEngine(holds_after=3)
    async with running(engine) as server:
        reader, writer = await begin_stream(server)
        server.signal()
        await asyncio.wait_for(server.lifecycle.until_draining(), 1)
        assert b"server_draining" in await server.raw(post(STREAM, "connection: close"))
        assert b" 503 " in (await server.raw(get("/health/ready", "connection: close"))).split(b"\r\n")[0]
        assert b" 200 " in (await server.raw(get("/health/live", "connection: close"))).split(b"\r\n")[0]
        assert not server.task.done()
        writer.close()
        await asyncio.wait_for(server.task, 3)
        assert not server.lifecycle.cut.is_set()
        assert b"error" not in await reader.read()


async def test_what_outlasts_the_drain_ends_with_an_error_event() -> None:
    engine = RecitingEngine(holds_after=3)
    async with running(engine, settings=ServerSettings(drain_timeout=0.1)) as server:
        reader, writer = await begin_stream(server)
        server.signal()
        rest = await asyncio.wait_for(reader.read(), 3)
        assert b"server_draining" in rest
        assert b"[DONE]" not in rest
        writer.close()
        await asyncio.wait_for(server.task, 3)


async def test_the_second_signal_ends_everything_at_once() -> None:
    engine = RecitingEngine(holds_after=3)
    async with running(engine, settings=ServerSettings(drain_timeout=60)) as server:
        _, writer = await begin_stream(server)
        server.signal()
        await asyncio.wait_for(server.lifecycle.until_draining(), 1)
        server.signal()
        await asyncio.wait_for(server.task, 3)
        writer.close()
        assert not engine.running


async def test_a_server_whose_models_all_fail_stops_by_itself() -> None:
    async def prepare() -> bool:
        return False

    settings, lifecycle = ServerSettings(drain_timeout=1), Lifecycle()
    with bind("127.0.0.1", 0) as listener:
        app = make_app(settings=settings, lifecycle=lifecycle)
        await asyncio.wait_for(serve(app, listener, settings, lifecycle, prepare), 5)


async def test_an_exception_while_preparing_comes_out() -> None:
    async def prepare() -> bool:
        raise ZeroDivisionError

    settings, lifecycle = ServerSettings(drain_timeout=1), Lifecycle()
    with bind("127.0.0.1", 0) as listener, pytest.raises(ZeroDivisionError):
        app = make_app(settings=settings, lifecycle=lifecycle)
        await asyncio.wait_for(serve(app, listener, settings, lifecycle, prepare), 5)


def test_the_listener_is_a_listening_socket() -> None:
    with bind("localhost", 0) as listener, socket.create_connection(listener.getsockname()[:2]):
        pass


@pytest.mark.parametrize("num_tokens", [20, 200])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_reader_that_takes_nothing_is_cut_off_and_leaves_no_connection(stream: bool, num_tokens: int) -> None:
    settings = ServerSettings(port=0, drain_timeout=2, slow_reader_timeout=0.2)
    fields = {"prompt": "abc", "max_tokens": num_tokens, "n": 4, "logprobs": 20, "stream": stream}
    body = json.dumps(fields).encode()
    engine = RecitingEngine()
    async with running(engine, settings=settings) as server:
        with socket.socket() as reader:
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(reader, ("127.0.0.1", server.port))
            await loop.sock_sendall(reader, post(body))
            async with asyncio.timeout(60):
                while not engine.requests or _num_connections(server.port) or server.lifecycle.num_running:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        assert not engine.running


def _num_connections(port: int) -> int:
    """Connections of this process's server that still exist at its end."""
    mine = psutil.Process().net_connections("tcp")
    return sum(each.laddr.port == port and each.status == psutil.CONN_ESTABLISHED for each in mine)


async def test_a_connection_outlives_a_refusal_whose_body_came_later() -> None:
    async with running() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        head = (
            b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\n"
        )
        writer.write(head)
        refusal = await reader.readuntil(b"}}")
        assert b" 415 " in refusal
        writer.write(b"{}")
        await asyncio.sleep(1.3)
        writer.write(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        assert b"200 OK" in await asyncio.wait_for(reader.read(), 5)
        writer.close()
        await writer.wait_closed()


POST_HEAD = b"POST /tokenize HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n\r\n"


async def test_s21_a_body_with_two_lengths_is_refused_and_its_rest_is_no_request() -> None:
    """Who reads the shorter one takes what follows for a request of its own: smuggled past whoever stands in front."""
    smuggled = get("/metrics")
    body = b"0\r\n\r\n" + smuggled
    async with running() as server:
        for lengths in (
            b"content-length: %d\r\n" % len(body) + CHUNKED,
            b"transfer-encoding: chunked\r\ncontent-length: %d\r\n\r\n" % len(body),
        ):
            answer = await server.raw(POST_HEAD + lengths + body)
            assert answer.startswith(b"HTTP/1.1 400")
            assert answer.count(b"HTTP/1.1") == 1
            assert b"not both" in answer


@pytest.mark.parametrize(
    "lengths",
    [
        b"content-length: +17\r\n\r\n",
        b"content-length: 0x11\r\n\r\n",
        b"content-length: " + b"9" * 24 + b"\r\n\r\n",
        b"content-length: 17, 18\r\n\r\n",
        b"transfer-encoding: gzip, chunked\r\n\r\n",
        b"transfer-encoding: xchunked\r\n\r\n",
        CHUNKED + b"-1\r\n",
        CHUNKED + b"0x2\r\n{}",
        CHUNKED + b"zz\r\n{}",
    ],
    ids=range(9),
)
async def test_s21_a_length_that_is_none_is_a_400_and_ends_the_connection(lengths: bytes) -> None:
    async with running() as server:
        answer = await server.raw(POST_HEAD + lengths + b'{"content": "ab"}' + get("/metrics"))
        assert answer.startswith(b"HTTP/1.1 400")
        assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    "start",
    [
        b"content-length: 17\r\n\r\n{",
        CHUNKED + b"1\r\n{\r\n",
        CHUNKED + b"f" * 16 + b"\r\n{",
    ],
    ids=["short", "chunks", "chunk of 2^64"],
)
async def test_s21_a_body_without_end_is_waited_for_so_long_and_no_longer(
    start: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transom.server.json_body.MAX_BODY_SECONDS", 0.2)
    async with running() as server:
        answer = await server.raw(POST_HEAD + start)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b" 200 " in await server.raw(get("/health", "connection: close"))


async def test_s21_many_that_never_finish_their_headers_are_cut_off_and_hold_up_nobody() -> None:
    settings = ServerSettings(header_timeout=1.0, drain_timeout=2)
    async with running(settings=settings) as server:
        slow = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(200)]
        for _, writer in slow:
            writer.write(b"GET /health HTTP/1.1\r\nx: ")
        assert b" 200 " in await server.raw(get("/health", "connection: close"))
        ends = await asyncio.wait_for(asyncio.gather(*(reader.read() for reader, _ in slow)), 10)
        assert set(ends) == {b""}
        for _, writer in slow:
            writer.close()


async def test_s21_a_client_that_asks_before_it_sends_is_told_to_go_on() -> None:
    body = b'{"content": "ab"}'
    async with running() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(POST_HEAD + b"expect: 100-continue\r\ncontent-length: 17\r\nconnection: close\r\n\r\n")
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)).startswith(b"HTTP/1.1 100")
        writer.write(body)
        assert (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP/1.1 200")
        writer.close()


@pytest.mark.parametrize("refuses", ["queue", "quota"])
async def test_s21_an_overloaded_server_says_so_before_it_takes_the_body(refuses: str, tmp_path: Path) -> None:
    """Of this body nothing ever comes, so nothing of it was waited for, or parsed."""
    engine = RecitingEngine(holds_after=1)
    quota = ResourceQuota(max_concurrent_requests=1) if refuses == "quota" else ResourceQuota()
    limits = replace(small_engine_config(), max_num_seqs=1, max_num_waiting=0 if refuses == "queue" else 9)
    served = replace(served_model(engine), engine_config=limits)
    ledger = QuotaLedger(Quotas({"default": quota}))
    settings, lifecycle = ServerSettings(drain_timeout=2), Lifecycle()
    app = create_app(ModelRegistry([served]), settings, lifecycle, ledger)
    async with running_app(app, lifecycle, settings) as server:
        if refuses == "quota":
            _, stream = await begin_stream(server)
        for path in ("/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/embeddings"):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            head = POST_HEAD.replace(b"/tokenize", path.encode())
            writer.write(head + b"content-length: 5000000\r\n\r\n")
            answer = await asyncio.wait_for(reader.readuntil(b"}}"), 5)
            assert answer.startswith(b"HTTP/1.1 503" if refuses == "queue" else b"HTTP/1.1 429"), path
            assert b"retry-after: 1" in answer
            writer.close()
        if refuses == "quota":
            stream.close()
