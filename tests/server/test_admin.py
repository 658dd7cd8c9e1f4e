"""The operator's application: what it shows and does; and that the public one has none of it."""

from __future__ import annotations

import pytest
from fastapi import FastAPI

from tests.server.asgi import ask
from tests.server.served import RecitingEngine, make_app, served_model
from transom.config.registry_config import ServerConfig
from transom.engine import EngineState, EngineStatus, LoadReport
from transom.errors import WeightsError
from transom.registry import FailedModel, ModelRegistry
from transom.server.admin import create_admin_app
from transom.server.lifecycle import Lifecycle

STOPPED = EngineStatus(EngineState.STOPPED)


class ClosableEngine(RecitingEngine):
    """Can be unloaded."""

    async def close(self, drain_seconds: float = 0.0) -> None:
        self.status = STOPPED


class BrokenEngine(RecitingEngine):
    """Cannot be loaded."""

    async def start(self) -> LoadReport:
        raise WeightsError("lm_head is missing")


def registry_of(*engines: RecitingEngine, pinned: bool = False) -> ModelRegistry:
    models = [
        served_model(engine, model_id=f"m{number}", aliases=(f"alias/{number}",), load="on_demand", pinned=pinned)
        for number, engine in enumerate(engines)
    ]
    broken = FailedModel(served_model(model_id="unusable", aliases=()).entry, WeightsError("no such file"))
    return ModelRegistry(models, [broken], ServerConfig())


def app_of(registry: ModelRegistry, lifecycle: Lifecycle | None = None) -> FastAPI:
    return create_admin_app(registry, lifecycle or Lifecycle())


async def test_models_are_listed_with_where_they_stand_and_who_uses_them() -> None:
    registry = registry_of(ClosableEngine(), ClosableEngine(status=STOPPED))
    app = app_of(registry)
    async with registry.use(registry.get("m0")):
        busy, idle, unusable = (await ask(app, "GET", "/models")).json()["models"]
    assert (busy["state"], busy["num_requests"], busy["idle_seconds"]) == ("loaded", 1, None)
    assert (idle["state"], idle["num_requests"], idle["idle_seconds"]) == ("unloaded", 0, None)
    assert (unusable["state"], unusable["reason"]) == ("failed", "no such file")
    busy, *_ = (await ask(app, "GET", "/models")).json()["models"]
    assert 0 <= busy["idle_seconds"] < 5
    await registry.close()


@pytest.mark.parametrize("state", [EngineState.RESTARTING, EngineState.FAILED])
async def test_a_model_whose_worker_died_is_not_called_loaded(state: EngineState) -> None:
    engine = ClosableEngine()
    registry = registry_of(engine)
    async with registry.use(registry.get("m0")):
        pass
    engine.status = EngineStatus(state, "killed by signal 9")
    model, _ = (await ask(app_of(registry), "GET", "/models")).json()["models"]
    assert (model["state"], model["reason"]) == (state.value, "killed by signal 9")
    await registry.close()


async def test_a_model_is_loaded_and_unloaded_by_id_or_alias() -> None:
    registry = registry_of(ClosableEngine(status=STOPPED))
    app = app_of(registry)
    assert (await ask(app, "POST", "/models/alias/0/load")).json()["state"] == "loaded"
    assert registry.get("m0").is_ready
    assert (await ask(app, "POST", "/models/m0/unload")).json()["state"] == "unloaded"
    assert not registry.get("m0").is_ready
    await registry.close()


async def test_an_operator_is_told_why_a_model_cannot_be_loaded() -> None:
    registry = registry_of(BrokenEngine(status=STOPPED))
    answer = await ask(app_of(registry), "POST", "/models/m0/load")
    assert (answer.status, answer.error["message"]) == (500, "lm_head is missing")
    model, _ = (await ask(app_of(registry), "GET", "/models")).json()["models"]
    assert (model["state"], model["reason"]) == ("failed", "lm_head is missing")
    await registry.close()


async def test_what_cannot_be_done_is_refused_in_words() -> None:
    registry = registry_of(ClosableEngine(), pinned=True)
    app = app_of(registry)
    assert (await ask(app, "POST", "/models/m0/unload")).status == 400
    assert (await ask(app, "POST", "/models/nobody/load")).error["code"] == "model_not_found"
    assert "no such file" in (await ask(app, "POST", "/models/unusable/load")).error["message"]
    assert (await ask(app, "GET", "/nothing")).status == 404
    await registry.close()


async def test_draining_begins_at_once_and_nothing_is_loaded_any_more() -> None:
    lifecycle = Lifecycle()
    registry = registry_of(ClosableEngine(status=STOPPED))
    app = app_of(registry, lifecycle)
    assert (await ask(app, "POST", "/drain")).status == 202
    assert lifecycle.draining
    assert (await ask(app, "POST", "/models/m0/load")).error["code"] == "server_draining"
    await registry.close()


async def test_s12_nothing_of_it_is_on_the_public_port() -> None:
    public = make_app(ClosableEngine())
    assert "num_requests" not in (await ask(public, "GET", "/models")).body.decode()
    for path in ("/drain", "/models/tiny/load", "/models/tiny/unload", "/v1/models/tiny/unload"):
        assert (await ask(public, "POST", path)).status in (404, 405)
