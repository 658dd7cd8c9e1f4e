"""Requests to models that are not loaded: they wait, are pinged, and are planned with what is known then."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

from fastapi import FastAPI

from tests.server.asgi import Exchange, ask
from tests.server.served import REPORT, RecitingEngine, served_model
from transom.config.registry_config import ServerConfig
from transom.engine import EngineState, EngineStatus, LoadReport
from transom.errors import WeightsError
from transom.registry import ModelRegistry
from transom.server.app import create_app
from transom.server.settings import ServerSettings

NUM_HELD_TOKENS = 50
"""What the budgets of the model hold of one request."""


class SleepingEngine(RecitingEngine):
    """Not loaded, and nothing known of it, until `may_start` is set."""

    def __init__(self) -> None:
        super().__init__(status=EngineStatus(EngineState.STOPPED))
        self.may_start = asyncio.Event()
        self.report = None  # type: ignore[assignment]
        self.error: WeightsError | None = None

    async def start(self) -> LoadReport:
        await self.may_start.wait()
        if self.error is not None:
            self.status = EngineStatus(EngineState.FAILED, str(self.error))
            raise self.error
        self.status = EngineStatus(EngineState.READY)
        self.report = replace(REPORT, max_sequence_tokens=NUM_HELD_TOKENS)
        return self.report


def app_of(engine: SleepingEngine, server: ServerConfig = ServerConfig()) -> FastAPI:  # noqa: B008 - frozen
    registry = ModelRegistry([served_model(engine, load="on_demand")], server=server)
    return create_app(registry, ServerSettings(ping_interval=0.02))


async def test_a_model_on_demand_makes_no_server_wait() -> None:
    app = app_of(SleepingEngine())
    assert (await ask(app, "GET", "/health/ready")).status == 200
    assert (await ask(app, "GET", "/health")).status == 200
    model = (await ask(app, "GET", "/v1/models/tiny")).json()
    assert (model["status"], model["meta"]["max_request_tokens"]) == ("unloaded", None)


async def test_the_first_request_is_planned_with_what_the_budgets_hold() -> None:
    engine = SleepingEngine()
    asking = asyncio.create_task(
        ask(app_of(engine), "POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "abc"}]})
    )
    await asyncio.sleep(0.05)
    assert not asking.done()
    engine.may_start.set()
    answer = await asyncio.wait_for(asking, 5)
    assert answer.json()["usage"]["total_tokens"] == NUM_HELD_TOKENS


async def test_tokens_are_counted_without_loading() -> None:
    engine = SleepingEngine()
    body = {"messages": [{"role": "user", "content": "abc"}]}
    answer = await ask(app_of(engine), "POST", "/v1/chat/completions/input_tokens", body)
    assert answer.json()["input_tokens"] >= 3
    assert engine.status.state is EngineState.STOPPED


async def test_a_stream_hears_pings_while_its_model_is_loaded_again() -> None:
    engine = SleepingEngine()
    engine.report = REPORT
    exchange = Exchange(app_of(engine), "POST", "/v1/completions", json.dumps({"prompt": "x", "stream": True}).encode())
    await asyncio.wait_for(exchange.arrived.wait(), 5)
    assert exchange.answer.body.startswith(b": ping")
    engine.may_start.set()
    await asyncio.wait_for(exchange.task, 5)
    assert exchange.answer.events()[-1] == "[DONE]"


async def test_a_caller_that_goes_away_is_not_waited_for() -> None:
    engine = SleepingEngine()
    app = app_of(engine)
    exchange = Exchange(app, "POST", "/v1/completions", json.dumps({"prompt": "x"}).encode())
    await asyncio.sleep(0.05)
    exchange.gone.set()
    await asyncio.wait_for(exchange.task, 5)
    engine.may_start.set()
    assert (await ask(app, "POST", "/v1/completions", {"prompt": "x"})).status == 200
    assert len(engine.requests) == 1


async def test_a_queue_that_is_full_and_a_load_that_takes_too_long_are_told_apart() -> None:
    engine = SleepingEngine()
    full = await ask(app_of(engine, ServerConfig(max_waiting_for_load=0)), "POST", "/v1/completions", {"prompt": "x"})
    assert (full.status, full.error["code"]) == (503, "queue_full")
    late = await ask(app_of(engine, ServerConfig(load_wait_seconds=0.05)), "POST", "/v1/completions", {"prompt": "x"})
    assert (late.status, late.error["code"]) == (503, "model_loading")
    assert "was not loaded within 0.05 seconds" in late.error["message"]
    assert 0 < float(late.headers["retry-after"]) <= 2


async def test_a_load_that_fails_is_told_with_its_reason() -> None:
    engine = SleepingEngine()
    engine.error = WeightsError("lm_head is missing")
    engine.may_start.set()
    app = app_of(engine)
    for _ in range(2):
        answer = await ask(app, "POST", "/v1/completions", {"prompt": "x"})
        assert (answer.status, answer.error["code"]) == (503, "model_loading")
        assert "lm_head is missing" in answer.error["message"]
    assert (await ask(app, "GET", "/health/ready")).json()["models"]["tiny"]["reason"] == "lm_head is missing"
