"""/metrics over HTTP: what is counted is what the answers said, errors are told by reasons, labels are bounded."""

from __future__ import annotations

from fastapi import FastAPI
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics_families
from prometheus_client.parser import text_string_to_metric_families

from tests.server.asgi import JSON_HEADERS, ask, complete
from tests.server.served import RecitingEngine, make_app
from transom.errors import QueueFullError
from transom.server.settings import ServerSettings

Labels = frozenset[tuple[str, str]]


async def scrape(app: FastAPI, key: str | None = None) -> dict[tuple[str, Labels], float]:
    headers = [*JSON_HEADERS, *([("authorization", f"Bearer {key}")] if key else [])]
    answer = await ask(app, "GET", "/metrics", headers=headers)
    assert answer.status == 200
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }


def tiny(**labels: str) -> Labels:
    return frozenset({"model": "tiny", **labels}.items())


async def test_tokens_ends_and_lengths_are_those_of_the_answers() -> None:
    app = make_app(RecitingEngine(end_after=5))
    usages = [
        (await complete(app, max_tokens=3)).json()["usage"],
        (await complete(app, max_tokens=20, n=2)).json()["usage"],
    ]
    await complete(app, max_tokens=4, stream=True)
    shown = await scrape(app)
    num_prompt = sum(usage["prompt_tokens"] for usage in usages) + 3
    num_generated = sum(usage["completion_tokens"] for usage in usages) + 4
    assert shown["transom_prompt_tokens_total", tiny()] == num_prompt
    assert shown["transom_request_prompt_tokens_sum", tiny()] == num_prompt
    assert shown["transom_tokens_predicted_total", tiny()] == num_generated
    assert shown["transom_request_generation_tokens_sum", tiny()] == num_generated
    assert shown["transom_request_generation_tokens_count", tiny()] == 3
    assert shown["transom_request_success_total", tiny(finished_reason="length")] == 2
    assert shown["transom_request_success_total", tiny(finished_reason="stop")] == 2
    assert shown["transom_time_to_first_token_seconds_count", tiny()] == 3
    assert shown["transom_request_queue_time_seconds_count", tiny()] == 3
    assert shown["transom_request_queue_time_seconds_sum", tiny()] >= 3 * 0.25  # what the engine tells, and the turns


async def test_errors_are_counted_by_their_codes() -> None:
    app = make_app(RecitingEngine(refusal=QueueFullError("full")))
    assert (await complete(app)).status == 503
    assert (await complete(app, max_tokens=10_000)).status == 400
    assert (await complete(app, model="other")).status == 404
    assert (await ask(app, "GET", "/no/such/route")).status == 404
    shown = await scrape(app)
    refused = {labels: value for (name, labels), value in shown.items() if name == "transom_refusals_total"}
    unknown = {"model": "unknown"}
    assert refused == {
        tiny(reason="queue_full"): 1,
        tiny(reason="context_length_exceeded"): 1,
        frozenset({**unknown, "reason": "model_not_found"}.items()): 1,
        frozenset({**unknown, "reason": "not_found"}.items()): 1,
    }


async def test_no_label_holds_what_a_caller_wrote() -> None:
    app = make_app(settings=ServerSettings(api_keys=("sk-canary-key",)))
    canary = "canary-7f3a"
    headers = [*JSON_HEADERS, ("authorization", "Bearer sk-canary-key"), ("x-request-id", canary)]
    for body in ({"model": canary, "prompt": "a"}, {"model": "tiny", "prompt": "a", "user": canary}, {canary: 1}):
        await ask(app, "POST", "/v1/completions", body, headers=headers)
    await ask(app, "GET", f"/{canary}", headers=headers)
    await ask(app, "POST", "/v1/completions", {"model": "tiny"}, headers=[*JSON_HEADERS, ("x-api-key", canary)])
    for (name, labels), _ in (await scrape(app, "sk-canary-key")).items():
        assert not any("canary" in value for _, value in labels), (name, labels)


async def test_whoever_asks_for_openmetrics_gets_it() -> None:
    app = make_app()
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    answer = await ask(app, "GET", "/metrics", headers=[*JSON_HEADERS, ("accept", accept)])
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    parsed = open_metrics_families(answer.body.decode())  # type: ignore[no-untyped-call]
    families = {family.name for family in parsed}
    assert "transom_kv_tier_read_bytes" in families
    plain = await ask(app, "GET", "/metrics", headers=[*JSON_HEADERS, ("accept", "*/*;version=nonsense")])
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
