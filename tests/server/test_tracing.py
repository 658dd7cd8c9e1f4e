"""Spans of requests: their tree, their times, their attributes, and the caller's trace."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from tests.server.asgi import JSON_HEADERS, ask, chat, complete
from tests.server.served import RecitingEngine, make_app
from transom.errors import EngineError
from transom.server.tracing import Tracing

CANARY = "canary-77aa"
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collected:
    """A tracing whose spans stay here."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracing = Tracing(provider)

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        """In the order in which they ended: the request's is the last one."""
        return self._exporter.get_finished_spans()


@pytest.fixture
def collected() -> Collected:
    return Collected()


def times(span: ReadableSpan) -> tuple[int, int]:
    assert span.start_time is not None and span.end_time is not None
    return span.start_time, span.end_time


async def test_a_request_is_a_span_with_its_phases(collected: Collected) -> None:
    engine = RecitingEngine(queue_seconds=0.0)
    answer = await complete(make_app(engine, tracing=collected.tracing), max_tokens=5)
    *phases, whole = collected.spans
    assert [phase.name for phase in phases] == ["queue", "prefill", "decode"]
    assert (whole.name, whole.kind, whole.parent) == ("text_completion tiny", SpanKind.SERVER, None)
    for phase in phases:
        assert phase.parent is not None and whole.context is not None
        assert phase.parent.span_id == whole.context.span_id
        assert times(whole)[0] <= times(phase)[0] <= times(phase)[1] <= times(whole)[1]
    assert [times(phase)[1] for phase in phases[:2]] == [times(phase)[0] for phase in phases[1:]]
    attributes = dict(whole.attributes or {})
    assert attributes.pop("transom.time_to_first_token_seconds") > 0  # type: ignore[operator]
    assert attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/completions",
        "http.response.status_code": 200,
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "transom",
        "gen_ai.request.model": "tiny",
        "gen_ai.response.id": answer.json()["id"],
        "gen_ai.response.finish_reasons": ("length",),
        "gen_ai.usage.input_tokens": answer.json()["usage"]["prompt_tokens"],
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "transom.request_id": answer.headers["x-request-id"],
    }


async def test_the_callers_trace_goes_on(collected: Collected) -> None:
    app = make_app(tracing=collected.tracing)
    body = {"model": "tiny", "prompt": "a", "max_tokens": 2}
    for flags in ("01", "00"):
        headers = [*JSON_HEADERS, ("traceparent", f"00-{TRACE}-{SPAN}-{flags}")]
        await ask(app, "POST", "/v1/completions", body, headers=headers)
    assert len(collected.spans) == 4  # the second trace is not sampled
    whole = collected.spans[-1]
    assert whole.context is not None and whole.parent is not None
    assert (f"{whole.context.trace_id:032x}", f"{whole.parent.span_id:016x}") == (TRACE, SPAN)


@pytest.mark.parametrize("given", ["", "nonsense", f"00-{'0' * 32}-{SPAN}-01", f"ff-{TRACE}-{SPAN}-01", "x" * 4000])
async def test_a_damaged_traceparent_begins_a_new_trace(collected: Collected, given: str) -> None:
    headers = [*JSON_HEADERS, ("traceparent", given), ("tracestate", "a=b,,=,c")]
    body = {"model": "tiny", "prompt": "a", "max_tokens": 1}
    answer = await ask(make_app(tracing=collected.tracing), "POST", "/v1/completions", body, headers=headers)
    assert answer.status == 200
    assert collected.spans[-1].parent is None


async def test_refusals_and_failures_say_so(collected: Collected) -> None:
    await complete(make_app(tracing=collected.tracing), max_tokens=10_000)
    failing = RecitingEngine(fails_after=2, failure=EngineError("The engine gave up."))
    await chat(make_app(failing, tracing=collected.tracing), stream=True)
    refused, *_, failed = collected.spans
    assert (refused.attributes or {})["error.type"] == "context_length_exceeded"
    assert refused.status.status_code is StatusCode.UNSET
    assert (failed.name, failed.status.status_code) == ("chat tiny", StatusCode.ERROR)


async def test_no_text_is_in_a_span_and_what_names_no_model_is_none(collected: Collected) -> None:
    app = make_app(tracing=collected.tracing)
    await complete(app, prompt=CANARY, max_tokens=2, user=CANARY)
    await complete(app, prompt=CANARY, model=CANARY)
    await ask(app, "GET", "/health")
    await ask(app, "GET", "/metrics")
    assert len(collected.spans) == 5
    assert not any(CANARY in span.to_json() for span in collected.spans)


async def test_the_web_frameworks_own_telemetry_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would quote exceptions, and what could not be read of a body."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    await complete(make_app(RecitingEngine(fails_after=1, failure=EngineError("no"))))
    assert exporter.get_finished_spans() == ()
