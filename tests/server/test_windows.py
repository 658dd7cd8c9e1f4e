"""GET /v1/windows: who sees what, once and live, and that nobody looks when nobody watches."""

from __future__ import annotations

import asyncio
import hashlib
import json
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from tests.engine.observed_client import eventually
from tests.server.asgi import JSON_HEADERS, Exchange, Headers, ask
from tests.server.served import RecitingEngine, make_app, served_model
from transom.cache.stats import SequenceStats
from transom.engine import EngineState, EngineStats, EngineStatus
from transom.errors import KeyQueueFullError, QueueFullError
from transom.request import CacheStrategy
from transom.server.lifecycle import Lifecycle
from transom.server.settings import ServerSettings
from transom.server.window_watch import MAX_WATCHERS, MAX_WATCHERS_PER_KEY, Pace, WindowWatch

PROMPT = "x" * 150
HOLDING = 3


def asking(app: FastAPI, model: str = "tiny", headers: Headers = JSON_HEADERS) -> Exchange:
    """A completion that stops after three tokens and never ends."""
    body = {"model": model, "prompt": PROMPT, "max_tokens": 10, "stream": True}
    return Exchange(app, "POST", "/v1/completions", json.dumps(body).encode(), headers)


async def end(*exchanges: Exchange) -> None:
    for exchange in exchanges:
        exchange.gone.set()
    await asyncio.gather(*(exchange.task for exchange in exchanges), return_exceptions=True)


async def windows(app: FastAPI, query: str = "", headers: Headers = JSON_HEADERS) -> dict[str, Any]:
    answer = await ask(app, "GET", f"/v1/windows{query}", headers=headers)
    assert answer.status == 200
    shown: dict[str, Any] = answer.json()
    return shown


async def test_a_running_request_is_shown_block_by_block() -> None:
    engine = RecitingEngine(holds_after=HOLDING)
    app = make_app(engine)
    exchange = asking(app)
    await eventually(lambda: engine.running)
    shown = await windows(app)
    assert (shown["object"], shown["block_size"], shown["is_admin"]) == ("windows", 64, True)
    [model] = shown["models"]
    assert (model["id"], model["status"], model["context_window"], model["steps"]) == ("tiny", "loaded", 256, 1)
    assert (model["running"], model["waiting"]) == (1, 0)
    [request] = model["requests"]
    answer_id = exchange.answer.events()[0]["id"] if exchange.answer.body else request["answer_id"]
    assert request == {
        "request_id": f"{answer_id}-0-0",
        "answer_id": answer_id,
        "prompt_tokens": 150,
        "max_tokens": 10,
        "state": "running",
        "strategy": "full",
        "tokens": 150,
        "hot_tokens": 22,
        "cold_tokens": 128,
        "evicted_tokens": 0,
        "cached_tokens": 64,
        "tokens_per_second": None,
        "layers": [
            {
                "kind": "full_attention",
                "num_layers": 1,
                "blocks": [["cold", 2], ["hot", 1]],
                "shared": [[0, 1]],
                "keep_first": 0,
                "first_recent": 0,
                "importance": {"blocks_per_cell": 1, "shares": [0.25, 0.75]},
            }
        ],
    }
    await end(exchange)
    assert (await windows(app))["models"][0]["requests"] == []


async def test_what_concerns_everybody_is_what_the_cache_status_says() -> None:
    app = make_app()
    cache = (await ask(app, "GET", "/v1/models/tiny/cache")).json()
    [model] = (await windows(app))["models"]
    assert model["cache"].items() <= cache.items()
    assert model["cache"].keys() == {
        "block_size",
        "num_sequences",
        "num_tokens",
        "tiers",
        "layers",
        "conv_states",
        "reuse",
    }


async def test_neither_text_nor_tokens_are_shown() -> None:
    engine = RecitingEngine(holds_after=HOLDING)
    app = make_app(engine)
    exchange = asking(app)
    await eventually(lambda: engine.running)
    text = json.dumps(await windows(app))
    assert "xxx" not in text
    assert "120" not in text  # the token of an x
    await end(exchange)


async def test_one_model_can_be_asked_for_and_an_unknown_one_is_a_404() -> None:
    app = make_app(RecitingEngine(), RecitingEngine())
    assert [model["id"] for model in (await windows(app, "?model=tiny-1"))["models"]] == ["tiny-1"]
    assert [model["id"] for model in (await windows(app))["models"]] == ["tiny", "tiny-1"]
    assert (await ask(app, "GET", "/v1/windows?model=nobody")).status == 404


async def test_a_strange_stream_is_a_400_that_names_it() -> None:
    answer = await ask(make_app(), "GET", "/v1/windows?stream=perhaps")
    assert (answer.status, answer.error["param"]) == (400, "stream")


@pytest.mark.parametrize("state", [EngineState.STARTING, EngineState.STOPPED, EngineState.RESTARTING])
async def test_a_model_without_a_worker_has_no_windows(state: EngineState) -> None:
    [model] = (await windows(make_app(RecitingEngine(status=EngineStatus(state)))))["models"]
    assert model["requests"] == []


def write_keys(directory: Path) -> Path:
    """Anna and Boris, who may use the first of two models only, and an admin."""
    keys = [
        {"name": name, "sha256": hashlib.sha256(name.encode()).hexdigest(), "tenant": "t", **more}
        for name, more in (("anna", {}), ("boris", {"models": ["tiny"]}), ("root", {"admin": True}))
    ]
    path = directory / "keys.json"
    path.write_text(json.dumps({"keys": keys}))
    path.chmod(0o600)
    return path


@pytest.fixture
def keyed(tmp_path: Path) -> tuple[FastAPI, RecitingEngine]:
    """Two models, for the keys of `write_keys`."""
    engine = RecitingEngine(holds_after=HOLDING)
    return make_app(engine, RecitingEngine(), settings=ServerSettings(api_keys_file=write_keys(tmp_path))), engine


def as_key(key: str) -> Headers:
    return [*JSON_HEADERS, ("authorization", f"Bearer {key}")]


async def test_a_key_sees_its_own_requests_and_an_admin_all(keyed: tuple[FastAPI, RecitingEngine]) -> None:
    app, engine = keyed
    exchanges = [asking(app, headers=as_key(name)) for name in ("anna", "boris", "boris")]
    await eventually(lambda: len(engine.running) == 3)
    anna, boris, root = [await windows(app, headers=as_key(name)) for name in ("anna", "boris", "root")]
    assert [len(shown["models"][0]["requests"]) for shown in (anna, boris, root)] == [1, 2, 3]
    [own] = anna["models"][0]["requests"]
    same = next(each for each in root["models"][0]["requests"] if each["request_id"] == own["request_id"])
    assert (same["tokens"], same["layers"]) == (own["tokens"], own["layers"])
    assert [model["id"] for model in boris["models"]] == ["tiny"]
    for name in ("running", "waiting", "tokens_per_second", "cache"):
        assert anna["models"][0][name] is None
        assert root["models"][0][name] is not None
    assert (anna["is_admin"], root["is_admin"]) == (False, True)
    assert (await ask(app, "GET", "/v1/windows")).status == 401
    await end(*exchanges)


class ReportingEngine(RecitingEngine):
    """Its reports name the sequences that run."""

    def stats(self) -> EngineStats | None:
        stats = super().stats()
        assert stats is not None
        running = tuple(SequenceStats(name, CacheStrategy.FULL, 1, 1, 0, 0) for name in self.running)
        return replace(stats, cache=replace(stats.cache, sequences=running))


async def test_slots_that_others_use_are_not_shown_as_busy(tmp_path: Path) -> None:
    engine = ReportingEngine(holds_after=HOLDING)
    app = make_app(engine, settings=ServerSettings(api_keys_file=write_keys(tmp_path)))
    exchanges = [asking(app, headers=as_key(name)) for name in ("boris", "boris")]
    await eventually(lambda: len(engine.running) == 2)
    for name, num_busy in (("anna", 0), ("boris", 2), ("root", 2)):
        slots = (await ask(app, "GET", "/slots?model=tiny", headers=as_key(name))).json()
        assert sum(slot["is_processing"] for slot in slots) == num_busy
    await end(*exchanges)


async def test_s12_a_stream_ends_when_its_key_is_revoked(
    keyed: tuple[FastAPI, RecitingEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transom.server.key_ring.CHECK_INTERVAL_SECONDS", 0.0)
    app, _ = keyed
    streams = {name: Exchange(app, "GET", "/v1/windows?stream=true", headers=as_key(name)) for name in ("anna", "root")}
    await eventually(lambda: all(stream.answer.events() for stream in streams.values()))
    path = tmp_path / "keys.json"
    keys = json.loads(path.read_text())["keys"]
    path.write_text(json.dumps({"keys": [key for key in keys if key["name"] != "root"]}))
    async with asyncio.timeout(5):
        await streams["root"].task
    assert not streams["anna"].task.done()
    await end(streams["anna"])


async def test_a_stream_says_what_changes_and_ends_with_its_client() -> None:
    engine = RecitingEngine(holds_after=HOLDING)
    app = make_app(engine)
    stream = Exchange(app, "GET", "/v1/windows?stream=true")
    await eventually(lambda: stream.answer.events())
    assert stream.answer.headers["content-type"].startswith("text/event-stream")
    exchange = asking(app)
    await eventually(lambda: stream.answer.events()[-1]["models"][0]["requests"])
    await eventually(lambda: stream.answer.events()[-1]["models"][0]["requests"][0]["state"] == "running")
    await end(exchange)
    await eventually(lambda: stream.answer.events()[-1]["models"][0]["requests"] == [])
    await eventually(lambda: stream.answer.events()[-1]["models"][0]["tokens_per_second"]["generated"] == 0)
    num_events = len(stream.answer.events())
    await asyncio.sleep(0.6)
    assert len(stream.answer.events()) == num_events, "events without a change"
    await end(stream)
    num_looks = engine.num_looks
    await asyncio.sleep(0.6)
    assert engine.num_looks == num_looks, "somebody looks although nobody watches"


async def test_watchers_share_the_looks() -> None:
    engine = RecitingEngine()
    app = make_app(engine)
    streams = [Exchange(app, "GET", "/v1/windows?stream=true") for _ in range(6)]
    await asyncio.sleep(0.6)
    assert 2 <= engine.num_looks <= 4
    await end(*streams)


async def test_a_draining_server_ends_the_streams_at_once() -> None:
    lifecycle = Lifecycle()
    app = make_app(lifecycle=lifecycle)
    stream = Exchange(app, "GET", "/v1/windows?stream=true")
    await eventually(lambda: stream.answer.events())
    async with asyncio.timeout(1):
        await lifecycle.drain(30)
        await stream.task
    assert stream.answer.events()[-1] == "[DONE]"
    assert (await ask(app, "GET", "/v1/windows")).status == 503


async def test_watchers_are_bounded_by_key_and_in_all() -> None:
    watch = WindowWatch([served_model()])
    async with AsyncExitStack() as stack:
        for _ in range(MAX_WATCHERS_PER_KEY):
            await stack.enter_async_context(watch.watching("anna"))
        with pytest.raises(KeyQueueFullError):
            await stack.enter_async_context(watch.watching("anna"))
        for _ in range(MAX_WATCHERS - MAX_WATCHERS_PER_KEY):
            await stack.enter_async_context(watch.watching(""))
        with pytest.raises(QueueFullError):
            await stack.enter_async_context(watch.watching("boris"))
    async with watch.watching("anna"):
        pass


async def test_one_watcher_too_many_is_told_so() -> None:
    app = make_app()
    streams = [Exchange(app, "GET", "/v1/windows?stream=true") for _ in range(MAX_WATCHERS)]
    await eventually(lambda: all(stream.answer.events() for stream in streams))
    assert (await ask(app, "GET", "/v1/windows?stream=true")).status in (429, 503)
    await end(*streams)


def test_a_pace_is_that_of_the_last_two_seconds() -> None:
    pace = Pace()
    assert pace.per_second is None
    pace.note(0.0, 100)
    assert pace.per_second is None
    for tenth in range(1, 41):
        pace.note(tenth / 10, 100 + tenth)
    assert pace.per_second == pytest.approx(10)
    for second in range(5, 8):
        pace.note(second, 140)
    assert pace.per_second == 0


def test_a_counter_that_goes_back_begins_again() -> None:
    pace = Pace()
    for count in (100, 150, 0):
        pace.note(count / 50, count)
    assert pace.per_second is None
