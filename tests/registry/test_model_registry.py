"""Served models by id and alias, started in parallel, failing one by one."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from tests.server.served import RecitingEngine, served_model
from transom.config.engine_config import EngineConfig
from transom.config.registry_config import ModelEntry
from transom.engine import EngineState, EngineStatus, LoadReport
from transom.errors import EngineRestartingError, ModelLoadingError, ModelNotFoundError, UnavailableError, WeightsError
from transom.registry import ModelRegistry, ModelState

BUNDLED = Path(__file__).parents[2] / "transom/models_builtin"


class SlowEngine(RecitingEngine):
    """Starts only when all of its kind are starting."""

    barrier = asyncio.Barrier(2)

    async def start(self) -> LoadReport:
        await self.barrier.wait()
        return self.report


class BrokenEngine(RecitingEngine):
    """Cannot load its weights."""

    async def start(self) -> LoadReport:
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
    registry = ModelRegistry([served_model(SlowEngine(), model_id=name, aliases=()) for name in "ab"])
    assert await asyncio.wait_for(registry.start(), 2) == ()


async def test_a_model_that_fails_to_load_does_not_disturb_the_others() -> None:
    models = [
        served_model(BrokenEngine(), model_id="broken", aliases=()),
        served_model(model_id="good", aliases=()),
    ]
    registry = ModelRegistry(models)
    [failure] = await registry.start()
    assert failure.entry.id == "broken"
    assert str(failure.error) == "lm_head is missing"
    assert registry.get("good").is_ready
    with pytest.raises(ModelLoadingError):
        registry.get("broken")


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
