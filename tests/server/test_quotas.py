"""Quotas as callers see them: refusals with their headers, and what every way of ending costs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi import FastAPI

from tests.quotas.clocks import Clock
from tests.server.asgi import JSON_HEADERS, Exchange, ask, chat, complete
from tests.server.served import RecitingEngine, served_model
from transom.config.registry_config import ResourceQuota
from transom.errors import EngineRestartingError, QueueFullError
from transom.quotas import QuotaLedger, Quotas
from transom.registry import ModelRegistry
from transom.server.app import create_app
from transom.server.settings import ServerSettings


def limited(clock: Clock, engine: RecitingEngine | None = None, **limits: Any) -> tuple[FastAPI, QuotaLedger]:
    ledger = QuotaLedger(Quotas({"default": ResourceQuota(**limits)}), clock=clock)
    return create_app(ModelRegistry([served_model(engine)]), ServerSettings(), quotas=ledger), ledger


def used(ledger: QuotaLedger) -> dict[str, int]:
    return {use.limit: use.used for use in ledger.uses()}


async def test_a_rate_is_refused_with_the_exact_time_to_wait() -> None:
    clock = Clock(1_700_000_000.0)
    app, _ = limited(clock, max_tokens_per_second=10)
    assert (await complete(app, max_tokens=7)).status == 200
    answer = await complete(app, max_tokens=7)
    assert (answer.status, answer.error["type"], answer.error["code"]) == (
        429,
        "rate_limit_error",
        "rate_limit_exceeded",
    )
    assert (answer.error["limit"], answer.error["scope"]) == ("max_tokens_per_second", "tier default")
    assert "x-should-retry" not in answer.headers
    milliseconds = int(answer.headers["retry-after-ms"])
    assert 1000 <= milliseconds <= 1010
    assert answer.headers["retry-after"] == "2"
    clock.seconds += (milliseconds - 10) / 1000
    assert (await complete(app, max_tokens=7)).status == 429
    clock.seconds += 0.011
    assert (await complete(app, max_tokens=7)).status == 200


async def test_a_daily_quota_tells_clients_not_to_try_again() -> None:
    app, _ = limited(Clock(), max_requests_per_day=1)
    assert (await complete(app, max_tokens=1)).status == 200
    answer = await chat(app, stream=True)
    assert (answer.status, answer.error["type"], answer.error["code"]) == (
        429,
        "insufficient_quota",
        "insufficient_quota",
    )
    assert answer.headers["x-should-retry"] == "false"
    assert 86400 <= int(answer.headers["retry-after"]) <= 86400 + 720


async def test_every_answer_says_what_is_left_of_the_window_that_blocks_first() -> None:
    clock = Clock(1_700_000_000.0)
    app, _ = limited(clock, max_tokens_per_hour=1000, max_tokens_per_day=100, max_requests_per_hour=2)
    answer = await complete(app, max_tokens=7)
    expected = {"limit-tokens": "100", "remaining-tokens": "90", "limit-requests": "2", "remaining-requests": "1"}
    later = await ask(app, "GET", "/v1/models")
    for name, value in expected.items():
        assert answer.headers[f"x-ratelimit-{name}"] == later.headers[f"x-ratelimit-{name}"] == value
    assert later.headers["x-ratelimit-reset-tokens"].startswith("24h")
    assert later.headers["x-ratelimit-reset-requests"].startswith("1h0m")
    await complete(app, max_tokens=7)
    refused = await complete(app, max_tokens=7)
    assert (refused.status, refused.headers["x-ratelimit-remaining-requests"]) == (429, "0")


async def test_without_quotas_nothing_is_said_of_them() -> None:
    app = create_app(ModelRegistry([served_model()]), ServerSettings())
    assert not [name for name in (await complete(app)).headers if "ratelimit" in name]


async def test_a_prompt_counts_once_and_every_candidate_counts() -> None:
    app, ledger = limited(Clock(), max_tokens_per_hour=10_000)
    usage = (await complete(app, prompt=["abc", "defg"], max_tokens=5, n=2, best_of=3)).json()["usage"]
    assert usage["total_tokens"] == 7 + 2 * 3 * 5
    assert used(ledger) == {"max_tokens_per_hour": usage["total_tokens"]}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failed_request_is_charged_for_the_work_that_was_done(stream: bool) -> None:
    failing = RecitingEngine(fails_after=4, failure=EngineRestartingError("It died."))
    app, ledger = limited(Clock(), failing, max_tokens_per_hour=1000, max_requests_per_hour=10)
    await complete(app, max_tokens=50, stream=stream)
    assert used(ledger) == {"max_tokens_per_hour": 3 + 4, "max_requests_per_hour": 1}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refused_request_is_not_charged(stream: bool) -> None:
    app, ledger = limited(
        Clock(), RecitingEngine(refusal=QueueFullError("Full.")), max_tokens_per_hour=1000, max_requests_per_hour=10
    )
    assert (await complete(app, max_tokens=50, stream=stream)).status == 503
    assert (await complete(app, max_tokens=5000, stream=stream)).status == 400
    assert used(ledger) == {"max_tokens_per_hour": 0, "max_requests_per_hour": 0}


@pytest.mark.parametrize("stream", [False, True])
async def test_s20_whoever_goes_away_pays_for_what_he_got(stream: bool) -> None:
    engine = RecitingEngine(holds_after=4)
    app, ledger = limited(Clock(), engine, max_tokens_per_hour=1000, max_concurrent_requests=1)
    body = b'{"model": "tiny", "prompt": "abc", "max_tokens": 50, "stream": %s}' % str(stream).lower().encode()
    exchange = Exchange(app, "POST", "/v1/completions", body, JSON_HEADERS)
    async with asyncio.timeout(30):
        while used(ledger) != {"max_tokens_per_hour": 53}:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    for _ in range(200):
        await asyncio.sleep(0)
    second = await complete(app, max_tokens=1)
    assert (second.status, second.error["limit"]) == (429, "max_concurrent_requests")
    exchange.gone.set()
    await asyncio.wait_for(exchange.task, 5)
    assert used(ledger) == {"max_tokens_per_hour": 7}
    engine.holds_after = None
    assert (await complete(app, max_tokens=1)).status == 200


async def test_s20_sixty_at_the_edge_are_never_more_than_the_limit() -> None:
    engine = RecitingEngine(holds_after=1)
    app, ledger = limited(Clock(), engine, max_concurrent_requests=5)
    body = b'{"model": "tiny", "prompt": "abc", "max_tokens": 50}'
    exchanges = [Exchange(app, "POST", "/v1/completions", body, JSON_HEADERS) for _ in range(60)]
    async with asyncio.timeout(30):
        while sum(exchange.task.done() for exchange in exchanges) < 55:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    assert {exchange.answer.status for exchange in exchanges if exchange.task.done()} == {429}
    assert len(engine.requests) == 5
    for exchange in exchanges:
        exchange.gone.set()
        await exchange.task
    engine.holds_after = None
    assert (await complete(app, max_tokens=1)).status == 200
    assert used(ledger) == {}


async def test_a_key_that_is_shut_out_costs_no_tokenization(monkeypatch: pytest.MonkeyPatch) -> None:
    served = served_model()
    ledger = QuotaLedger(Quotas({"default": ResourceQuota(max_requests_per_hour=1)}), clock=Clock())
    app = create_app(ModelRegistry([served]), ServerSettings(), quotas=ledger)
    assert (await complete(app, max_tokens=1)).status == 200
    monkeypatch.setattr(type(served.llm), "encode", lambda *_, **__: pytest.fail("was tokenized"))
    assert (await complete(app, max_tokens=1)).status == 429


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
async def test_health_has_no_quota(path: str) -> None:
    ledger = QuotaLedger(Quotas({"default": ResourceQuota(max_requests_per_hour=1)}), clock=Clock())
    app = create_app(ModelRegistry([served_model()]), ServerSettings(api_keys=("k",)), quotas=ledger)
    answer = await ask(app, "GET", path, headers=[("host", "localhost")])
    assert answer.status == 200
    assert not [name for name in answer.headers if "ratelimit" in name]
