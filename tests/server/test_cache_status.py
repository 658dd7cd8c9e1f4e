"""GET /v1/models/{id}/cache: what it says is what the engine says."""

from __future__ import annotations

import pytest

from tests.server.asgi import ask
from tests.server.served import REPORT, WINDOW, ConvolvingEngine, RecitingEngine, make_app, served_model
from transom.engine import EngineState, EngineStats, EngineStatus
from transom.registry import ModelRegistry
from transom.server.app import create_app
from transom.server.settings import ServerSettings


class SilentEngine(RecitingEngine):
    """Has not reported yet."""

    def stats(self) -> EngineStats | None:
        return None


@pytest.mark.parametrize("path", ["/v1/models/tiny/cache", "/models/tiny/cache", "/v1/models/org/tiny-alias-0/cache"])
async def test_tiers_layers_and_requests_are_shown_as_the_engine_reports_them(path: str) -> None:
    answer = await ask(make_app(), "GET", path)
    assert answer.status == 200
    shown = answer.json()
    assert (shown["object"], shown["model"]) == ("model.cache", "tiny")
    assert shown["steps"] == 1
    assert (shown["block_size"], shown["num_sequences"], shown["num_tokens"]) == (64, 1, 5)
    hot, cold = shown["tiers"]
    assert hot == {"name": "hot", "state": "on", "used_bytes": 512, "reuse_bytes": 256, "total_bytes": 2048}
    assert cold == {
        "name": "cold",
        "state": "paused",
        "used_bytes": 768,
        "reuse_bytes": 0,
        "total_bytes": 4096,
        "physical_bytes": 8192,
        "is_direct": False,
        "read_bytes": 1000,
        "read_seconds": 0.5,
        "written_bytes": 2000,
        "write_seconds": 1.5,
        "written_blocks": 3,
        "stall_seconds": 0.25,
        "checksum_failures": 4,
        "read_errors": 5,
        "write_errors": 6,
        "pauses": 7,
    }
    assert shown["layers"] == [
        {
            "kind": "full_attention",
            "num_layers": 1,
            "hot_blocks": 2,
            "hot_blocks_total": 8,
            "cold_blocks": 3,
            "hot_reuse_blocks": 1,
            "cold_reuse_blocks": 4,
        }
    ]
    assert shown["reuse"] == {
        "hits": 1,
        "hit_tokens": 640,
        "hot_blocks": 7,
        "cold_blocks": 3,
        "recomputed_tokens": 64,
        "evicted_blocks": 5,
        "lost_blocks": 6,
    }
    assert shown["conv_states"] is None
    assert shown["requests"] == [
        {
            "request_id": "cmpl-1-0-0",
            "strategy": "full",
            "tokens": 300,
            "hot_tokens": 128,
            "cold_tokens": 192,
            "evicted_tokens": 0,
        }
    ]


async def test_states_of_convolutions_are_shown_where_a_model_has_some() -> None:
    answer = await ask(make_app(ConvolvingEngine()), "GET", "/v1/models/tiny/cache")
    assert answer.json()["conv_states"] == {
        "num_layers": 3,
        "sequences": 2,
        "sequences_total": 8,
        "used_bytes": 20,
        "total_bytes": 80,
    }


async def test_budgets_and_the_strategy_of_the_model_are_shown() -> None:
    served = served_model(cache={"strategy": "sliding_window", "window_size": 32})
    app = create_app(ModelRegistry([served]), ServerSettings())
    shown = (await ask(app, "GET", "/v1/models/tiny/cache")).json()
    assert shown["cache"] == {"strategy": "sliding_window", "window_size": 32, "keep_first": 0}
    budgets = {"kv_cache_ram_bytes": 2**20, "max_ssd_bytes": 0, "hot_tokens": None, "max_request_tokens": WINDOW}
    assert shown["budgets"] == budgets
    assert REPORT.max_sequence_tokens == WINDOW


async def test_an_unknown_model_is_a_404() -> None:
    assert (await ask(make_app(), "GET", "/v1/models/nobody/cache")).status == 404


@pytest.mark.parametrize(
    "engine",
    [
        SilentEngine(),
        RecitingEngine(status=EngineStatus(EngineState.STARTING)),
        RecitingEngine(status=EngineStatus(EngineState.RESTARTING, "The worker died.")),
    ],
)
async def test_a_model_that_cannot_say_is_a_503_with_a_time_to_retry(engine: RecitingEngine) -> None:
    answer = await ask(make_app(engine), "GET", "/v1/models/tiny/cache")
    assert answer.status == 503
    assert float(answer.headers["retry-after"]) > 0
