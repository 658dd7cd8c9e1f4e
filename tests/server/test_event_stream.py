"""Streams and clients that go away, refusals before the first byte, failures after it, pings, slow readers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message

from tests.fakes import small_engine_config
from tests.server.asgi import Exchange, ask, chat, complete
from tests.server.served import RecitingEngine, make_app
from transom.errors import BudgetExceededError, EngineError, EngineRestartingError, QueueFullError, TransomError
from transom.server.event_stream import EventStream
from transom.server.lifecycle import Lifecycle
from transom.server.settings import ServerSettings
from transom.server.turns import MAX_NOT_STARTED

COMPLETION = {"model": "tiny", "prompt": "abc", "max_tokens": 200}


def start(app: Any, **fields: Any) -> Exchange:
    return Exchange(app, "POST", "/v1/completions", json.dumps({**COMPLETION, **fields}).encode())


async def eventually(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - the condition is anything
            await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (BudgetExceededError("needs 9 MiB of 8 MiB", param="max_tokens"), 400, "kv_budget_exceeded"),
        (QueueFullError("256 requests wait", retry_after_seconds=1.5), 503, "queue_full"),
        (EngineRestartingError("again"), 503, "engine_restarting"),
        (EngineError("bad luck"), 500, "internal_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_of_the_engine_is_a_plain_status_streaming_or_not(
    error: TransomError, status: int, code: str, stream: bool
) -> None:
    answer = await complete(make_app(RecitingEngine(refusal=error)), stream=stream)
    assert (answer.status, answer.error["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/json"
    if status == 503:
        assert 0 < float(answer.headers["retry-after"]) <= 120
    if code == "queue_full":
        assert (answer.headers["retry-after"], answer.headers["retry-after-ms"]) == ("2", "1500")


async def test_a_failure_in_mid_stream_is_an_error_event_without_done() -> None:
    engine = RecitingEngine(fails_after=3, failure=EngineRestartingError("The worker died."))
    answer = await complete(make_app(engine), stream=True)
    *chunks, last = answer.events()
    assert answer.status == 200
    assert len(chunks) == 3
    assert last == {
        "error": {
            "message": "The worker died.",
            "type": "server_error",
            "param": None,
            "code": "engine_restarting",
        }
    }
    assert answer.is_complete


async def test_a_failure_before_the_end_of_an_answer_in_one_piece_is_a_status() -> None:
    engine = RecitingEngine(fails_after=3, failure=EngineRestartingError("The worker died."))
    assert (await complete(make_app(engine))).status == 503


@pytest.mark.parametrize("fields", [{}, {"n": 3}, {"prompt": ["a", "b"], "n": 2}])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_away_aborts_all_its_sequences(fields: dict[str, Any], stream: bool) -> None:
    engine = RecitingEngine(holds_after=5)
    exchange = start(make_app(engine), stream=stream, **fields)
    await eventually(lambda: engine.running and (exchange.answer.body or not stream))
    num_sequences = len(engine.running)
    exchange.gone.set()
    await asyncio.wait_for(exchange.task, 5)
    assert not engine.running
    assert len(set(engine.aborted)) == num_sequences
    assert not exchange.answer.is_complete


async def test_sixty_clients_that_vanish_leave_nothing_behind() -> None:
    engine = RecitingEngine(holds_after=2)
    lifecycle = Lifecycle()
    app = make_app(engine, lifecycle=lifecycle)
    exchanges = [start(app, stream=True) for _ in range(60)]
    num_running = small_engine_config().max_num_seqs + MAX_NOT_STARTED
    await eventually(lambda: lifecycle.num_running == 60)
    await eventually(lambda: sum(bool(exchange.answer.body) for exchange in exchanges) == num_running)
    for exchange in exchanges:
        exchange.gone.set()
    await asyncio.wait_for(asyncio.gather(*(exchange.task for exchange in exchanges)), 10)
    assert not engine.running
    assert len(engine.requests) == num_running
    assert lifecycle.num_running == 0
    assert len(asyncio.all_tasks()) == 1


async def test_pings_come_while_nothing_else_does() -> None:
    app = make_app(RecitingEngine(holds_after=0), settings=ServerSettings(ping_interval=0.01))
    exchange = start(app, stream=True)
    await eventually(lambda: exchange.answer.body.count(b": ping\n\n") >= 3)
    assert exchange.answer.status == 200
    exchange.gone.set()
    await exchange.task


async def test_a_request_may_switch_the_pings_off() -> None:
    app = make_app(RecitingEngine(holds_after=0), settings=ServerSettings(ping_interval=0.01))
    exchange = start(app, stream=True, sse_ping_interval=-1)
    await asyncio.sleep(0.1)
    assert exchange.answer.body == b""
    exchange.gone.set()
    await exchange.task


async def test_draining_refuses_new_requests_and_lets_the_running_one_finish() -> None:
    lifecycle = Lifecycle()
    engine = RecitingEngine(holds_after=2)
    app = make_app(engine, lifecycle=lifecycle)
    running = start(app, stream=True)
    await eventually(lambda: running.answer.body)
    draining = asyncio.create_task(lifecycle.drain(5))
    await asyncio.sleep(0)
    refused = await complete(app)
    assert (refused.status, refused.error["code"]) == (503, "server_draining")
    assert (await chat(app)).status == 503
    assert (await ask(app, "GET", "/health/ready")).status == 503
    assert (await ask(app, "GET", "/health/live")).status == 200
    assert not draining.done()
    running.gone.set()
    await running.task
    await asyncio.wait_for(draining, 5)
    assert not lifecycle.cut.is_set()


@pytest.mark.parametrize("stream", [False, True])
async def test_what_outlasts_the_drain_is_cut_with_an_error(stream: bool) -> None:
    lifecycle = Lifecycle()
    engine = RecitingEngine(holds_after=2)
    exchange = start(make_app(engine, lifecycle=lifecycle), stream=stream)
    await eventually(lambda: engine.running and (exchange.answer.body or not stream))
    await lifecycle.drain(0.01)
    await asyncio.wait_for(exchange.task, 5)
    error = exchange.answer.events()[-1]["error"] if stream else exchange.answer.error
    assert error["code"] == "server_draining"
    assert b"[DONE]" not in exchange.answer.body
    assert not engine.running


async def test_s21_a_reader_that_takes_nothing_is_cut_off_and_the_source_is_closed() -> None:
    closed = asyncio.Event()

    async def endless() -> AsyncGenerator[dict[str, Any], None]:
        try:
            while True:
                yield {"x": 1}
        finally:
            closed.set()

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def stuck(message: Message) -> None:
        await asyncio.Event().wait()

    stream = EventStream(endless(), Lifecycle(), ping_interval=None, slow_reader_timeout=0.02)
    with pytest.raises(ClientDisconnect):
        await stream({"type": "http"}, receive, stuck)
    assert closed.is_set()


async def test_metrics_equal_the_sum_of_the_responses_also_for_streams_and_lost_clients() -> None:
    engine = RecitingEngine()
    app = make_app(engine)
    usages = [(await complete(app, max_tokens=count, n=2)).json()["usage"] for count in (3, 5)]
    options = {"include_usage": True}
    usages.append((await chat(app, max_tokens=7, stream=True, stream_options=options)).events()[-2]["usage"])
    engine.holds_after = 4
    lost = start(app, stream=True)
    await eventually(lambda: lost.answer.body.count(b"data: ") == 4)
    lost.gone.set()
    await lost.task
    usages.append({"prompt_tokens": 3, "completion_tokens": 4})

    text = (await ask(app, "GET", "/metrics")).body.decode()
    shown = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    for metric, name in (("prompt_tokens", "prompt_tokens"), ("tokens_predicted", "completion_tokens")):
        assert float(shown[f'transom_{metric}_total{{model="tiny"}}']) == sum(usage[name] for usage in usages)
    assert float(shown['transom_requests_total{model="tiny",status="200"}']) == 3
    assert float(shown['transom_requests_total{model="tiny",status="499"}']) == 1


@pytest.mark.parametrize("holds_after", [0, 3])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_deadline_ends_an_answer_and_frees_what_it_held(stream: bool, holds_after: int) -> None:
    engine = RecitingEngine(holds_after=holds_after)
    app = make_app(engine, settings=ServerSettings(request_timeout=0.1))
    answer = await complete(app, stream=stream, max_tokens=200)
    if stream and holds_after:
        assert answer.status == 200
        error = answer.events()[-1]["error"]
    else:
        assert answer.status == 408
        error = answer.error
    assert (error["type"], error["code"]) == ("timeout_error", "timeout")
    assert "0.1 seconds" in error["message"]
    assert not engine.running


async def test_an_answer_in_time_does_not_notice_the_deadline() -> None:
    app = make_app(settings=ServerSettings(request_timeout=5.0))
    assert (await complete(app, stream=True, max_tokens=5)).events()[-1] == "[DONE]"
    assert (await complete(app, max_tokens=5)).status == 200


async def test_who_waits_for_a_turn_has_a_deadline_too() -> None:
    engine = RecitingEngine(holds_after=1)
    app = make_app(engine, settings=ServerSettings(request_timeout=0.2))
    exchanges = [start(app) for _ in range(40)]
    await asyncio.gather(*(exchange.task for exchange in exchanges))
    assert {exchange.answer.status for exchange in exchanges} == {408}
    assert not engine.running
    assert 'requests_waiting{model="tiny"} 0.0' in (await ask(app, "GET", "/metrics")).body.decode()
