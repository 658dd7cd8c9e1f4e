"""Traces of requests for OpenTelemetry, made of a request's record when it is over. Knows spans, and not where they go.

    {operation} {model}          the whole request, child of the caller's span where it sent a `traceparent`
        queue                    until its first sequence's first step
        prefill                  from there to the first token
        decode                   from the first token to the last one

Attributes follow OpenTelemetry's conventions for generative models where they say something; texts are in none of them.
The packages of the extra `otel` are needed by whoever imports this, and by nobody else.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import Scope

from transom.server.request_record import RequestRecord

_OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/completions": "text_completion",
    "/completions": "text_completion",
    "/v1/embeddings": "embeddings",
    "/embeddings": "embeddings",
}
_Value = str | int | float | tuple[str, ...]


class Tracing:
    """Makes spans by `provider`, whose processors must not block. Lives in the event loop's thread."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("transom")
        self._propagator = TraceContextTextMapPropagator()

    def tell(self, record: RequestRecord, scope: Scope, route: str, status: int) -> None:
        """A request is over, at this moment. Those that name no model are not told."""
        if record.model is None:
            return
        clock = _WallClock()
        operation = _OPERATIONS.get(route)
        span = self._tracer.start_span(
            f"{operation} {record.model}" if operation else f"{scope['method']} {route}",
            context=self._context(scope),
            kind=SpanKind.SERVER,
            attributes=_attributes(record, scope["method"], route, status, operation),
            start_time=clock.at(record.arrived),
        )
        if status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        if span.is_recording():
            inside = set_span_in_context(span)
            for name, (start, end) in _phases(record).items():
                self._tracer.start_span(name, context=inside, start_time=clock.at(start)).end(clock.at(end))
        span.end(clock.at(time.perf_counter()))

    def close(self) -> None:
        """Sends what is not sent yet, and ends the thread that does. Blocks."""
        self._provider.shutdown()

    def _context(self, scope: Scope) -> Context:
        """The caller's span, if its header is right."""
        names = (b"traceparent", b"tracestate")
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in names}
        return self._propagator.extract(headers, context=Context())


class _WallClock:
    """Wall-clock times of what `time.perf_counter` has told, in nanoseconds since the epoch."""

    def __init__(self) -> None:
        self._offset = time.time() - time.perf_counter()

    def at(self, seconds: float) -> int:
        return int((self._offset + seconds) * 1e9)


def _phases(record: RequestRecord) -> Mapping[str, tuple[float, float]]:
    """Start and end of what is known to have happened."""
    phases: dict[str, tuple[float, float]] = {}
    if record.queued is not None and record.queue_seconds is not None:
        first_step = record.queued + record.queue_seconds
        phases["queue"] = record.queued, first_step
        if record.first_token is not None and record.last_token is not None:
            phases["prefill"] = min(first_step, record.first_token), record.first_token
            phases["decode"] = record.first_token, record.last_token
    return phases


def _attributes(
    record: RequestRecord, method: str, route: str, status: int, operation: str | None
) -> dict[str, _Value]:
    usage = record.usage
    first_token = None if record.first_token is None else record.first_token - record.arrived
    known: dict[str, _Value | None] = {
        "http.request.method": method,
        "http.route": route,
        "http.response.status_code": status,
        "error.type": record.error_code,
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "transom",
        "gen_ai.request.model": record.model,
        "gen_ai.response.id": record.answer_id,
        "gen_ai.response.finish_reasons": tuple(record.finish_reasons) or None,
        "gen_ai.usage.input_tokens": None if usage is None else usage.num_prompt_tokens,
        "gen_ai.usage.output_tokens": None if usage is None else usage.num_completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": None if usage is None else usage.num_cached_tokens,
        "transom.request_id": record.request_id,
        "transom.tenant": record.tenant or None,
        "transom.time_to_first_token_seconds": first_token,
    }
    return {name: value for name, value in known.items() if value is not None}
