"""What the keeper makes of the decisions: engines started and closed, requests woken, failures told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.server.served import RecitingEngine
from transom.engine import EngineState, EngineStatus, LoadReport
from transom.errors import DrainingError, ModelLoadingError, TransomError, WeightsError
from transom.registry.model_keeper import ModelKeeper
from transom.registry.model_slot import Claim, SlotState
from transom.registry.residency import Residency


class Machine:
    """RAM that engines take; counts it."""

    def __init__(self) -> None:
        self.num_loaded = 0
        self.most_loaded = 0


class SlowEngine(RecitingEngine):
    """Takes a turn of the event loop to start and to close."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(status=EngineStatus(EngineState.STOPPED))
        self.machine = machine
        self.num_starts = 0
        self.error: TransomError | None = None
        self.may_start = asyncio.Event()
        self.may_start.set()

    async def start(self) -> LoadReport:
        self.num_starts += 1
        self.machine.num_loaded += 1
        self.machine.most_loaded = max(self.machine.most_loaded, self.machine.num_loaded)
        await self.may_start.wait()
        if self.error is not None:
            self.machine.num_loaded -= 1
            self.status = EngineStatus(EngineState.FAILED, str(self.error))
            raise self.error
        self.status = EngineStatus(EngineState.READY)
        return self.report

    async def close(self, drain_seconds: float = 0.0) -> None:
        await asyncio.sleep(0)
        if self.status.state is EngineState.READY:
            self.machine.num_loaded -= 1
        self.status = EngineStatus(EngineState.STOPPED)


class House:
    """Three models of which two fit, and their keeper."""

    def __init__(self, *, load_wait_seconds: float = 5.0) -> None:
        self.now = 0.0
        self.machine = Machine()
        self.engines = {name: SlowEngine(self.machine) for name in "abc"}
        claims = [Claim(name, 1) for name in self.engines]
        residency = Residency(claims, max_ram_bytes=2, max_waiting=100, clock=self.clock)
        self.keeper = ModelKeeper(self.engines, residency, load_wait_seconds=load_wait_seconds)

    def clock(self) -> float:
        self.now += 0.001
        return self.now

    async def ask(self, name: str) -> None:
        async with self.keeper.use(name):
            assert self.engines[name].status.state is EngineState.READY
            await asyncio.sleep(0)
            assert self.engines[name].status.state is EngineState.READY


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_many_requests_to_one_model_start_it_once() -> None:
    house = House()
    await asyncio.gather(*(house.ask("a") for _ in range(50)))
    assert house.engines["a"].num_starts == 1
    await house.keeper.close()


async def test_three_models_take_turns_in_the_ram_of_two() -> None:
    house = House()
    for number in range(30):
        await house.ask("abc"[number % 3])
    assert house.machine.most_loaded == 2
    assert sum(engine.num_starts for engine in house.engines.values()) == 30
    await house.keeper.close()
    assert house.machine.num_loaded == 0


async def test_requests_to_all_models_at_once_are_all_answered() -> None:
    house = House()
    await asyncio.gather(*(house.ask("abc"[number % 3]) for number in range(90)))
    assert house.machine.most_loaded == 2
    await house.keeper.close()


async def test_a_load_that_takes_too_long_is_told_and_goes_on() -> None:
    house = House(load_wait_seconds=0.02)
    house.engines["a"].may_start.clear()
    with pytest.raises(ModelLoadingError, match=r"was not loaded within 0\.02 seconds"):
        await house.ask("a")
    house.engines["a"].may_start.set()
    await eventually(lambda: house.keeper.slot("a").state is SlotState.LOADED)
    await house.ask("a")
    assert house.engines["a"].num_starts == 1
    await house.keeper.close()


async def test_a_failed_load_tells_everybody_why() -> None:
    house = House()
    house.engines["a"].error = WeightsError("lm_head is missing")
    outcomes = await asyncio.gather(*(house.ask("a") for _ in range(3)), return_exceptions=True)
    assert all(isinstance(outcome, ModelLoadingError) for outcome in outcomes)
    assert all("lm_head is missing" in str(outcome) for outcome in outcomes)
    with pytest.raises(ModelLoadingError, match="lm_head is missing"):
        house.keeper.check("a")
    with pytest.raises(WeightsError):
        await house.keeper.load("a")
    house.engines["a"].error = None
    await house.keeper.load("a")
    await house.ask("a")
    await house.keeper.close()


async def test_an_engine_that_has_given_up_is_a_failed_model() -> None:
    house = House()
    await house.ask("a")
    house.engines["a"].status = EngineStatus(EngineState.FAILED, "its worker died too often")
    with pytest.raises(ModelLoadingError, match="its worker died too often"):
        house.keeper.check("a")
    assert house.keeper.slot("a").state is SlotState.FAILED
    await house.keeper.close()


async def test_unloading_waits_for_the_requests_of_the_model() -> None:
    house = House()
    async with house.keeper.use("a"):
        unloading = asyncio.create_task(house.keeper.unload("a"))
        await asyncio.sleep(0.01)
        assert not unloading.done()
        assert house.engines["a"].status.state is EngineState.READY
    await asyncio.wait_for(unloading, 5)
    assert house.keeper.slot("a").state is SlotState.UNLOADED
    await house.keeper.unload("a")
    await house.keeper.close()


async def test_a_request_that_is_cancelled_while_it_waits_leaves_nothing_behind() -> None:
    house = House()
    house.engines["a"].may_start.clear()
    waiting = asyncio.create_task(house.ask("a"))
    await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert house.keeper.slot("a").waiting == []
    house.engines["a"].may_start.set()
    await eventually(lambda: house.keeper.slot("a").state is SlotState.LOADED)
    assert house.keeper.slot("a").num_users == 0
    await house.keeper.close()


async def test_closing_ends_loads_and_answers_whoever_waits() -> None:
    house = House()
    house.engines["a"].may_start.clear()
    waiting = asyncio.create_task(house.ask("a"))
    await asyncio.sleep(0.01)
    await house.keeper.close()
    with pytest.raises(DrainingError):
        await asyncio.wait_for(waiting, 5)
    with pytest.raises(DrainingError):
        await house.ask("b")
