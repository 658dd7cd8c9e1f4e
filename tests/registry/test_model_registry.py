"""Served models by id and alias, started in parallel, failing one by one."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from pathlib import Path

import pytest

from tests.server.served import RecitingEngine, served_model
from transom.config.engine_config import MIB, EngineConfig
from transom.config.registry_config import ModelEntry, ServerConfig
from transom.engine import EngineState, EngineStatus, LoadReport
from transom.errors import (
    ConfigError,
    EngineRestartingError,
    ModelLoadingError,
    ModelNotFoundError,
    RequestError,
    UnavailableError,
    WeightsError,
)
from transom.registry import ModelRegistry, ModelState

STOPPED = EngineStatus(EngineState.STOPPED)
BUNDLED = Path(__file__).parents[2] / "transom/models_builtin"


class SlowEngine(RecitingEngine):
    """Starts only when all of its kind are starting."""

    barrier = asyncio.Barrier(2)

    async def start(self) -> LoadReport:
        await self.barrier.wait()
        return self.report


class BrokenEngine(RecitingEngine):
    """Cannot load its weights, until somebody repairs them."""

    is_repaired = False

    async def start(self) -> LoadReport:
        if self.is_repaired:
            return await super().start()
        self.status = EngineStatus(EngineState.FAILED, "lm_head is missing")
        raise WeightsError("lm_head is missing")


def test_a_model_is_found_by_id_and_by_every_alias() -> None:
    model = served_model(model_id="a", aliases=("b", "org/c"))
    registry = ModelRegistry([model, served_model(model_id="d", aliases=())])
    assert registry.get("a") is registry.get("b") is registry.get("org/c") is model
    assert registry.first() is model


@pytest.mark.parametrize("name", ["", "A", "a ", "../a", "x" * 1000])
def test_an_unknown_name_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ModelNotFoundError, match="Served models: a") as caught:
        ModelRegistry([served_model(model_id="a")]).get(name)
    assert len(str(caught.value)) < 200


async def test_models_start_in_parallel() -> None:
    SlowEngine.barrier = asyncio.Barrier(2)
    registry = ModelRegistry([served_model(SlowEngine(status=STOPPED), model_id=name, aliases=()) for name in "ab"])
    assert await asyncio.wait_for(registry.start(), 2) == ()


async def test_a_model_that_fails_to_load_does_not_disturb_the_others() -> None:
    models = [
        served_model(BrokenEngine(status=STOPPED), model_id="broken", aliases=()),
        served_model(model_id="good", aliases=()),
    ]
    registry = ModelRegistry(models)
    [failure] = await registry.start()
    assert failure.entry.id == "broken"
    assert str(failure.error) == "lm_head is missing"
    assert registry.get("good").is_ready
    with pytest.raises(ModelLoadingError, match="lm_head is missing"):
        registry.check_can_be_asked(registry.get("broken"))
    await registry.close()


async def test_a_model_that_failed_is_loaded_again_at_an_operators_wish() -> None:
    engine = BrokenEngine(status=STOPPED)
    registry = ModelRegistry([served_model(engine, model_id="broken", aliases=())])
    await registry.start()
    with pytest.raises(WeightsError, match="lm_head is missing"):
        await registry.load(registry.get("broken"))
    engine.is_repaired = True
    await registry.load(registry.get("broken"))
    assert registry.failed() == ()
    async with registry.use(registry.get("broken")):
        assert registry.get("broken").is_ready
    await registry.close()


async def test_a_model_on_demand_is_loaded_by_its_first_request_and_not_at_start() -> None:
    engine = RecitingEngine(status=STOPPED)
    registry = ModelRegistry([served_model(engine, load="on_demand")])
    assert await registry.start() == ()
    assert not registry.first().is_ready
    assert registry.first().can_be_asked
    async with registry.use(registry.first()):
        assert registry.first().is_ready
    await registry.close()


async def test_a_pinned_model_is_not_unloaded() -> None:
    registry = ModelRegistry([served_model(pinned=True)])
    with pytest.raises(RequestError, match="is pinned"):
        await registry.unload(registry.first())
    await registry.close()


@pytest.mark.parametrize(
    ("loads", "problem"),
    [
        (
            ("at_start", "at_start"),
            r"max_total_ram_mb is 3, .* loaded at start need 4 \(a 2 \+ b 2\)",
        ),
        (("at_start", "on_demand"), None),
    ],
)
def test_models_of_the_start_must_fit_together(loads: tuple[str, str], problem: str | None) -> None:
    models = [
        replace(served_model(model_id=name, aliases=(), load=load), ram_bytes=2 * MIB)
        for name, load in zip("ab", loads, strict=True)
    ]
    expected = contextlib.nullcontext() if problem is None else pytest.raises(ConfigError, match=problem)
    with expected:
        ModelRegistry(models, server=ServerConfig(max_total_ram_mb=3))


def test_every_model_must_fit_beside_the_pinned_ones() -> None:
    pinned = replace(served_model(model_id="a", aliases=(), load="on_demand", pinned=True), ram_bytes=2 * MIB)
    other = replace(served_model(model_id="b", aliases=(), load="on_demand"), ram_bytes=2 * MIB)
    with pytest.raises(ConfigError, match="the largest model and the pinned ones need 4"):
        ModelRegistry([pinned, other], server=ServerConfig(max_total_ram_mb=3))


def test_an_empty_registry_has_no_first_model() -> None:
    with pytest.raises(ModelLoadingError):
        ModelRegistry([]).first()


@pytest.mark.parametrize(
    ("state", "shown", "error"),
    [
        (EngineState.STARTING, ModelState.LOADING, ModelLoadingError),
        (EngineState.RESTARTING, ModelState.LOADING, EngineRestartingError),
        (EngineState.FAILED, ModelState.FAILED, ModelLoadingError),
        (EngineState.STOPPED, ModelState.UNLOADED, ModelLoadingError),
    ],
)
def test_a_model_that_is_not_ready_says_why(
    state: EngineState, shown: ModelState, error: type[UnavailableError]
) -> None:
    model = served_model(RecitingEngine(status=EngineStatus(state, "because")))
    assert model.state is shown
    assert model.status_fields() == {"status": shown.value, "reason": "because"}
    with pytest.raises(error):
        model.check_ready()


async def test_entries_are_prepared_with_their_limits_and_failures_are_kept(tmp_path: Path) -> None:
    def adjust(config: EngineConfig) -> EngineConfig:
        return replace(config, max_num_seqs=3)

    entries = [
        ModelEntry.for_path(BUNDLED / "tolstoy", sliding_window=100),
        ModelEntry.for_path(tmp_path, id="empty"),
    ]
    registry = ModelRegistry.prepare(entries, num_threads=1, adjust=adjust)
    [model], [failure] = registry.models(), registry.failed()
    assert model.model_config.sliding_window == 100
    assert model.engine_config.max_num_seqs == 3
    assert model.own_context_window == 8192
    assert model.llm.encode("Prince Andrew")
    assert "config.json" in str(failure.error)
    with pytest.raises(ModelLoadingError):
        registry.get("empty")
    await registry.close()
