"""Turns: bounded for each key and for all, fair between keys, the engine's queue kept short, nothing left behind."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import byte_request, small_engine_config
from tests.server.asgi import Exchange, ask
from tests.server.served import RecitingEngine, make_app
from tests.server.test_event_stream import eventually
from tests.server.test_tenants import as_key, entry
from transom.errors import EngineError, KeyQueueFullError, QueueFullError
from transom.llm import GenerationRequest, TextDelta
from transom.server.settings import ServerSettings
from transom.server.turns import MAX_NOT_STARTED, TurnLimits, Turns

TEXT = {"model": "tiny", "prompt": "abc", "max_tokens": 5}
LIMITS = TurnLimits(max_running=4, max_waiting=50, max_waiting_per_key=20, max_waiting_tokens=100_000)


class HeldEngine:
    """Starts and ends each request when it is told to."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.may_start = asyncio.Event()
        self.may_end = asyncio.Event()

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TextDelta]:
        self.begun.append(request.request.request_id)
        await self.may_start.wait()
        yield TextDelta(num_computed_tokens=1)
        await self.may_end.wait()
        yield TextDelta("x")


class Crowd:
    """Many requests at one model."""

    def __init__(self, limits: TurnLimits = LIMITS) -> None:
        self.turns = Turns(limits)
        self.engine = HeldEngine()
        self.tasks: list[asyncio.Task[None]] = []

    def ask(self, key: str, *, priority: int = 0, size: int = 1) -> asyncio.Task[None]:
        request = replace(byte_request("a" * size, request_id=f"{key}{len(self.tasks)}"), priority=priority)
        task = asyncio.create_task(self._run(key, GenerationRequest(request)))
        self.tasks.append(task)
        return task

    async def _run(self, key: str, request: GenerationRequest) -> None:
        place = self.turns.arrive(key)
        try:
            async for _ in self.turns.generate(key, place, request, self.engine.generate):
                pass
        finally:
            place.leave()

    @property
    def begun_keys(self) -> str:
        return "".join(name[0] for name in self.engine.begun)


async def settle() -> None:
    for _ in range(30):
        await asyncio.sleep(0)


async def test_the_engine_gets_few_that_have_not_started_and_no_more_than_it_can_run() -> None:
    crowd = Crowd()
    for _ in range(20):
        crowd.ask("a")
    await settle()
    assert len(crowd.engine.begun) == MAX_NOT_STARTED
    crowd.engine.may_start.set()
    await settle()
    assert len(crowd.engine.begun) == LIMITS.max_running + MAX_NOT_STARTED
    assert crowd.turns.num_waiting == 20 - len(crowd.engine.begun)
    crowd.engine.may_end.set()
    await asyncio.gather(*crowd.tasks)
    assert len(crowd.engine.begun) == 20
    assert crowd.turns.num_waiting == 0


async def test_keys_are_served_in_turn_however_many_requests_one_of_them_has() -> None:
    crowd = Crowd()
    for key in "a" * 18 + "b" * 3 + "c" * 2:
        crowd.ask(key)
    await settle()
    assert crowd.begun_keys == "a" * 8
    crowd.engine.may_start.set()
    crowd.engine.may_end.set()
    await asyncio.gather(*crowd.tasks)
    assert crowd.begun_keys[8:] == "abcabcab" + "a" * 7


async def test_a_key_serves_its_own_by_priority_and_arrival() -> None:
    crowd = Crowd()
    for _ in range(8):
        crowd.ask("a")
    for priority in (5, 0, 9, 0):
        crowd.ask("a", priority=priority)
    await settle()
    crowd.engine.may_start.set()
    crowd.engine.may_end.set()
    await asyncio.gather(*crowd.tasks)
    assert crowd.engine.begun[8:] == ["a9", "a11", "a8", "a10"]


async def test_one_key_cannot_fill_the_queue_of_all() -> None:
    crowd = Crowd()
    tasks = [crowd.ask("a") for _ in range(40)]
    await settle()
    refused = [task for task in tasks if task.done()]
    assert len(refused) == 40 - LIMITS.max_waiting_per_key - MAX_NOT_STARTED
    assert all(isinstance(task.exception(), KeyQueueFullError) for task in refused)
    crowd.ask("b")
    await settle()
    assert not crowd.tasks[-1].done()
    for task in crowd.tasks:
        task.cancel()
    await asyncio.gather(*crowd.tasks, return_exceptions=True)


async def test_the_queue_of_all_is_bounded_in_answers_and_in_tokens() -> None:
    turns = Turns(LIMITS)
    for _ in range(LIMITS.max_waiting):
        turns.arrive("")
    with pytest.raises(QueueFullError) as caught:
        turns.arrive("b")
    assert not isinstance(caught.value, KeyQueueFullError)
    crowd = Crowd(TurnLimits(1, 50, 20, 5000))
    for _ in range(MAX_NOT_STARTED):
        crowd.ask("a")
    huge, next_huge = (crowd.ask("a", size=20_000) for _ in range(2))
    await settle()
    assert (huge.done(), type(next_huge.exception())) == (False, QueueFullError)
    for task in crowd.tasks:
        task.cancel()
    await asyncio.gather(*crowd.tasks, return_exceptions=True)


async def test_a_failing_engine_gives_the_turn_on() -> None:
    crowd = Crowd()

    async def fail(request: GenerationRequest) -> AsyncGenerator[TextDelta]:
        if request.request.request_id:
            raise EngineError("broken")
        yield TextDelta()

    crowd.engine.generate = fail  # type: ignore[method-assign]
    for _ in range(20):
        crowd.ask("a")
    results = await asyncio.gather(*crowd.tasks, return_exceptions=True)
    assert all(isinstance(result, EngineError) for result in results)
    assert crowd.turns.num_waiting == 0


_STEPS = st.sampled_from(["ask a", "ask b", "ask c", "cancel", "start", "end", "go on"])


@given(st.lists(st.tuples(_STEPS, st.integers(0, 99)), max_size=60))
def test_whatever_happens_all_turns_come_back(steps: list[tuple[str, int]]) -> None:
    async def run() -> None:
        crowd = Crowd()
        for step, number in steps:
            match step.split():
                case ["ask", key]:
                    crowd.ask(key)
                case ["cancel"] if crowd.tasks:
                    crowd.tasks[number % len(crowd.tasks)].cancel()
                case ["start"]:
                    crowd.engine.may_start.set()
                case ["end"]:
                    crowd.engine.may_end.set()
                case _:
                    for _ in range(number % 5):
                        await asyncio.sleep(0)
        crowd.engine.may_start.set()
        crowd.engine.may_end.set()
        await asyncio.gather(*crowd.tasks, return_exceptions=True)
        turns = crowd.turns
        left = (turns.num_waiting, turns._num_running, turns._num_not_started, turns._num_waiting_tokens)
        assert left == (0, 0, 0, 0)
        assert turns._answers == Counter()
        fresh = [crowd.ask("d") for _ in range(12)]
        await asyncio.gather(*fresh)

    asyncio.run(run())


async def test_a_key_beyond_its_queue_is_told_429_and_others_are_served(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": [entry("a1"), entry("b1")]}))
    path.chmod(0o600)
    engine = RecitingEngine(holds_after=1)
    app = make_app(engine, settings=ServerSettings(api_keys_file=path, max_waiting_per_key=3))

    def start(key: str) -> Exchange:
        return Exchange(app, "POST", "/v1/completions", json.dumps(TEXT).encode(), as_key(key))

    num_running = small_engine_config().max_num_seqs + MAX_NOT_STARTED
    exchanges = []
    for _ in range(num_running + 3):
        exchanges.append(start("a1"))
        await eventually(lambda: len(engine.requests) == min(len(exchanges), num_running))
    await settle()
    refused = await ask(app, "POST", "/v1/completions", TEXT, headers=as_key("a1"))
    assert (refused.status, refused.error["type"], refused.error["code"]) == (
        429,
        "rate_limit_error",
        "rate_limit_exceeded",
    )
    assert refused.headers["retry-after"] == "1"
    other = start("b1")
    await settle()
    assert not other.task.done()
    for exchange in (*exchanges, other):
        exchange.gone.set()
        await exchange.task
    engine.holds_after = None
    assert (await ask(app, "POST", "/v1/completions", TEXT, headers=as_key("a1"))).status == 200


async def test_what_waits_here_is_counted_as_waiting() -> None:
    engine = RecitingEngine(holds_after=1)
    app = make_app(engine)
    exchanges = [Exchange(app, "POST", "/v1/completions", json.dumps(TEXT).encode()) for _ in range(20)]
    num_waiting = len(exchanges) - small_engine_config().max_num_seqs - MAX_NOT_STARTED
    line = f'transom_num_requests_waiting{{model="tiny"}} {num_waiting:.1f}'
    async with asyncio.timeout(30):
        while line not in (await ask(app, "GET", "/metrics")).body.decode():
            await settle()
    for exchange in exchanges:
        exchange.gone.set()
        await exchange.task
