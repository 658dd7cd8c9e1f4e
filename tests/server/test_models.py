"""GET /v1/models, /health and /metrics: what they say is what is there."""

from __future__ import annotations

import pytest

from tests.server.asgi import ask
from tests.server.served import VOCAB_SIZE, WINDOW, RecitingEngine, make_app, served_model
from transom.engine import EngineState, EngineStatus
from transom.errors import WeightsError
from transom.registry import FailedModel, ModelRegistry
from transom.server.app import create_app
from transom.server.settings import ServerSettings

LOADING = EngineStatus(EngineState.STARTING)
RESTARTING = EngineStatus(EngineState.RESTARTING, "The worker died.")
FAILED = EngineStatus(EngineState.FAILED, "no memory")


@pytest.mark.parametrize("prefix", ["", "/v1"])
async def test_the_list_and_the_single_entry_agree_and_show_the_window_everywhere(prefix: str) -> None:
    app = make_app(RecitingEngine(), RecitingEngine())
    listed = (await ask(app, "GET", f"{prefix}/models")).json()
    assert listed["object"] == "list"
    assert [entry["id"] for entry in listed["data"]] == ["tiny", "tiny-1"]
    single = (await ask(app, "GET", f"{prefix}/models/tiny")).json()
    assert single == listed["data"][0]
    assert single["object"] == "model"
    assert isinstance(single["created"], int)
    assert single["max_model_len"] == single["context_length"] == single["meta"]["n_ctx"] == WINDOW
    assert single["meta"]["n_ctx_train"] == 2 * WINDOW
    assert single["meta"]["n_vocab"] == VOCAB_SIZE
    assert single["meta"]["max_request_tokens"] == WINDOW
    assert (single["meta"]["cache_strategy"], single["meta"]["max_ssd_bytes"]) == ("full", 0)
    assert single["meta"]["kv_bytes_per_token"] == 2 * 8 * 4
    assert single["meta"]["conv_state_bytes_per_sequence"] == 0
    assert single["status"] == "loaded"
    assert single["aliases"] == ["org/tiny-alias-0"]


async def test_an_id_with_a_slash_is_found() -> None:
    assert (await ask(make_app(), "GET", "/v1/models/org/tiny-alias-0")).json()["id"] == "tiny"


async def test_an_unknown_id_is_a_404() -> None:
    answer = await ask(make_app(), "GET", "/v1/models/nobody")
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("status", "shown", "code"),
    [
        (LOADING, "loading", "model_loading"),
        (RESTARTING, "loading", "engine_restarting"),
        (FAILED, "failed", "model_loading"),
    ],
)
async def test_a_model_that_cannot_be_asked_says_so_with_a_time_to_retry(
    status: EngineStatus, shown: str, code: str
) -> None:
    app = make_app(RecitingEngine(status=status))
    assert (await ask(app, "GET", "/v1/models/tiny")).json()["status"] == shown
    answer = await ask(app, "POST", "/v1/completions", {"model": "tiny", "prompt": "x"})
    assert (answer.status, answer.error["code"]) == (503, code)
    assert 0 < float(answer.headers["retry-after"]) <= 120


@pytest.mark.parametrize(
    ("statuses", "ready", "health"),
    [
        ([EngineStatus(EngineState.READY)], 200, 200),
        ([LOADING], 503, 503),
        ([EngineStatus(EngineState.READY), LOADING], 503, 503),
        ([EngineStatus(EngineState.READY), RESTARTING], 200, 200),
        ([EngineStatus(EngineState.READY), FAILED], 200, 200),
        ([RESTARTING], 503, 200),
    ],
)
async def test_ready_means_that_something_can_be_asked_and_nothing_loads(
    statuses: list[EngineStatus], ready: int, health: int
) -> None:
    app = make_app(*(RecitingEngine(status=status) for status in statuses))
    answer = await ask(app, "GET", "/health/ready")
    assert answer.status == (await ask(app, "GET", "/ready")).status == ready
    assert len(answer.json()["models"]) == len(statuses)
    assert (await ask(app, "GET", "/health/live")).status == 200
    for path in ("/health", "/v1/health"):
        assert (await ask(app, "GET", path)).status == health


async def test_health_while_loading_has_the_form_that_test_harnesses_poll_for() -> None:
    answer = await ask(make_app(RecitingEngine(status=LOADING)), "GET", "/health")
    assert answer.json() == {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}


async def test_a_model_whose_files_cannot_be_used_is_named_by_ready_and_refused() -> None:
    broken = FailedModel(served_model(model_id="broken", aliases=()).entry, WeightsError("lm_head is missing"))
    app = create_app(ModelRegistry([served_model()], [broken]), ServerSettings())
    assert (await ask(app, "GET", "/ready")).json()["models"]["broken"] == {
        "status": "failed",
        "reason": "lm_head is missing",
    }
    answer = await ask(app, "POST", "/v1/completions", {"model": "broken", "prompt": "x"})
    assert (answer.status, answer.error["code"]) == (503, "model_loading")


async def test_metrics_show_what_the_engine_says() -> None:
    answer = await ask(make_app(), "GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    text = answer.body.decode()
    assert 'transom_kv_cache_used_bytes{model="tiny",tier="hot"} 512.0' in text
    assert 'transom_kv_cache_total_blocks{kind="full_attention",model="tiny"} 8.0' in text
    assert 'transom_kv_cache_cold_blocks{kind="full_attention",model="tiny"} 3.0' in text
    assert 'transom_kv_tier_stall_seconds_total{model="tiny",tier="cold"} 0.25' in text
    assert 'transom_kv_tier_state{model="tiny",state="paused",tier="cold"} 1.0' in text
    assert 'transom_computed_tokens_total{model="tiny"} 7.0' in text
    assert 'transom_spec_decode_num_draft_tokens_total{model="tiny"} 4.0' in text
    assert 'transom_spec_decode_num_accepted_tokens_total{model="tiny"} 3.0' in text
    assert 'transom_kv_cache_usage_perc{model="tiny"} 0.25' in text
