"""Shares of a model's KV budgets as callers meet them: no key can push another out, however its requests end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from tests.quotas.clocks import Clock
from tests.server.asgi import Answer, Exchange, ask
from tests.server.served import RecitingEngine, served_model
from tests.server.test_event_stream import eventually
from tests.server.test_tenants import as_key, entry
from transom.config.registry_config import ResourceQuota
from transom.errors import EngineRestartingError, QueueFullError
from transom.quotas import QuotaLedger, Quotas
from transom.registry import ModelRegistry
from transom.request import Request, RequestOutput
from transom.server.app import create_app
from transom.server.settings import ServerSettings

BLOCK_BYTES = 64 * 2 * 8 * 4
EIGHT_BLOCKS = 8 / 256
"""Of the model's budget of 1 MiB."""


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., FastAPI]:
    def make(engine: RecitingEngine, share: float = EIGHT_BLOCKS, **more: Any) -> FastAPI:
        path = tmp_path / "keys.json"
        path.write_text(json.dumps({"keys": [entry("a"), entry("b")]}))
        path.chmod(0o600)
        ledger = QuotaLedger(Quotas({"default": ResourceQuota(max_kv_ram_share=share)}), clock=Clock())
        settings = ServerSettings(api_keys_file=path)
        return create_app(ModelRegistry([served_model(engine, **more)]), settings, quotas=ledger)

    return make


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "prompt": "abc", "max_tokens": 1, **fields}


async def post(app: FastAPI, key: str, path: str = "/v1/completions", **fields: Any) -> Answer:
    return await ask(app, "POST", path, body(**fields), headers=as_key(key))


def begin(app: FastAPI, key: str, **fields: Any) -> Exchange:
    return Exchange(app, "POST", "/v1/completions", json.dumps(body(**fields)).encode(), as_key(key))


async def left(app: FastAPI, key: str) -> int:
    headers = (await post(app, key, max_tokens=10_000)).headers
    return int(headers["x-ratelimit-remaining-kv-ram-bytes"])


async def test_s20_a_key_that_fills_its_share_waits_and_another_key_does_not(make: Callable[..., FastAPI]) -> None:
    engine = RecitingEngine(holds_after=1)
    app = make(engine)
    exchanges = [begin(app, "a", max_tokens=125) for _ in range(10)]  # of 2 blocks each
    await eventually(lambda: sum(exchange.task.done() for exchange in exchanges) == 6)
    refused = next(exchange.answer for exchange in exchanges if exchange.task.done())
    assert (refused.status, refused.error["code"], refused.error["limit"], refused.error["scope"]) == (
        429,
        "rate_limit_exceeded",
        "max_kv_ram_share",
        "tier default",
    )
    assert refused.headers["retry-after"] == "1"
    assert refused.headers["x-ratelimit-limit-kv-ram-bytes"] == str(8 * BLOCK_BYTES)
    assert refused.headers["x-ratelimit-remaining-kv-ram-bytes"] == "0"
    assert (await post(app, "a")).error["limit"] == "max_kv_ram_share"
    engine.holds_after = None
    assert (await post(app, "b", max_tokens=253)).status == 200
    for exchange in exchanges:
        exchange.gone.set()
        await exchange.task
    assert (await post(app, "a", max_tokens=253)).status == 200


async def test_a_sequence_that_the_share_can_never_hold_is_refused_with_the_numbers(
    make: Callable[..., FastAPI],
) -> None:
    app = make(RecitingEngine(), 2 / 256)
    answer = await post(app, "a", max_tokens=126)
    assert (answer.status, answer.error["code"]) == (400, "kv_budget_exceeded")
    for number in (str(3 * BLOCK_BYTES), str(2 * BLOCK_BYTES), "max_kv_ram_share 0.0078125 of tier 'default'"):
        assert number in answer.error["message"]
    assert (await post(app, "a", max_tokens=125)).status == 200


async def test_an_answer_without_a_limit_takes_what_the_share_holds(make: Callable[..., FastAPI]) -> None:
    app = make(RecitingEngine(), 2 / 256)
    fields: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}]}
    answer = await ask(app, "POST", "/v1/chat/completions", {"model": "tiny", **fields}, headers=as_key("a"))
    assert answer.status == 200
    assert answer.json()["usage"]["total_tokens"] == 2 * 64


async def test_many_sequences_of_one_request_run_as_few_at_a_time_as_the_share_holds(
    make: Callable[..., FastAPI],
) -> None:
    engine = MostAtOnce()
    app = make(engine)
    answer = await post(app, "a", prompt=["abc"] * 5, n=2, max_tokens=100)
    assert (answer.status, len(answer.json()["choices"])) == (200, 10)
    assert engine.most_running == 4
    engine.most_running = 0
    answer = await ask(app, "POST", "/v1/embeddings", {"model": "tiny", "input": ["a" * 100] * 9}, headers=as_key("a"))
    assert answer.status == 200
    assert 0 < engine.most_running <= 4


class MostAtOnce(RecitingEngine):
    """Notes how many requests it had at a time."""

    most_running = 0

    async def generate(self, request: Request) -> AsyncGenerator[RequestOutput]:
        async with aclosing(super().generate(request)) as outputs:
            async for output in outputs:
                self.most_running = max(self.most_running, len(self.running))
                await asyncio.sleep(0)
                yield output


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "engine",
    [
        RecitingEngine(fails_after=3, failure=EngineRestartingError("It died.")),
        RecitingEngine(refusal=QueueFullError("Full.")),
    ],
)
async def test_what_a_request_held_is_there_again_when_the_worker_dies_or_refuses(
    make: Callable[..., FastAPI], stream: bool, engine: RecitingEngine
) -> None:
    app = make(engine)
    for _ in range(10):
        await post(app, "a", max_tokens=253, stream=stream)
    assert await left(app, "a") == 8 * BLOCK_BYTES


@pytest.mark.parametrize("stream", [False, True])
async def test_what_a_request_held_is_there_again_when_its_client_goes_away(
    make: Callable[..., FastAPI], stream: bool
) -> None:
    engine = RecitingEngine(holds_after=2)
    app = make(engine)
    for _ in range(10):
        exchange = begin(app, "a", max_tokens=253, stream=stream)
        await eventually(lambda: len(engine.running) == 1)
        assert await left(app, "a") == 4 * BLOCK_BYTES
        exchange.gone.set()
        await asyncio.wait_for(exchange.task, 5)
    assert await left(app, "a") == 8 * BLOCK_BYTES


async def test_truncation_leaves_out_what_the_share_cannot_hold(make: Callable[..., FastAPI]) -> None:
    app = make(RecitingEngine(), 2 / 256)
    turn = [{"role": "user", "content": "x" * 40}, {"role": "assistant", "content": "y" * 40}]
    messages = [*turn * 2, {"role": "user", "content": "z"}]
    fields = {"model": "tiny", "messages": messages, "max_tokens": 20, "truncation": "auto"}
    for path in ("/v1/chat/completions", "/v1/chat/completions/input_tokens"):
        answer = await ask(app, "POST", path, fields, headers=as_key("a"))
        assert answer.status == 200
        assert answer.json()["truncation"]["left_out_messages"]
