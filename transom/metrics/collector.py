"""Everything /metrics shows: counters and histograms recorded per request, and what is pulled at every scrape.

Names follow vLLM's with the prefix `transom_`. Labels are bounded: model names, status codes, words of fixed tables;
never keys, tenants or users. Not thread-safe: recorded and rendered in the event loop's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    openmetrics,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from transom.metrics.pulled import PulledMetrics
from transom.metrics.snapshot import ModelSnapshot
from transom.request import FinishReason, Usage

PLAIN_TYPE = CONTENT_TYPE_PLAIN_0_0_4
OPEN_METRICS_TYPE = openmetrics.exposition.CONTENT_TYPE_LATEST
UNKNOWN_MODEL = "unknown"
"""Label of requests that name no served model."""

_FIRST_TOKEN_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_QUEUE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_TOKEN_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2)
_REQUEST_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_LENGTH_BUCKETS = tuple(2**power for power in range(19))


class MetricsCollector:
    """The metrics of one server. `snapshots` is called at every scrape."""

    def __init__(self, snapshots: Callable[[], Iterable[ModelSnapshot]], version: str = "") -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, which nobody asks for
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(PulledMetrics(snapshots))
        ProcessCollector(registry=self._registry)
        build = Gauge("transom_build_info", "1, with the version.", ("version",), registry=self._registry)
        build.labels(version).set(1)
        self._requests = self._counter("requests", "Answered requests by HTTP status.", ("model", "status"))
        self._refusals = self._counter(
            "refusals", "Requests that got an error, by its code; `none` where it has no code.", ("model", "reason")
        )
        self._quota_refusals = self._counter(
            "quota_refusals", "Requests over a quota, by the limit and whose it is.", ("model", "limit", "scope")
        )
        self._ended = self._counter(
            "request_success", "Generated sequences by their end.", ("model", "finished_reason")
        )
        self._prompt = self._counter("prompt_tokens", "Prompt tokens of ended requests.")
        self._cached = self._counter("prompt_tokens_cached", "Prompt tokens whose KV came from the cache.")
        self._written = self._counter(
            "prompt_tokens_cache_written", "Prompt tokens whose KV was computed and left to later requests."
        )
        self._predicted = self._counter("tokens_predicted", "Generated tokens of ended requests.")
        self._evicted = self._counter("tokens_evicted", "Tokens that cache strategies forgot in ended requests.")
        self._first = self._histogram(
            "time_to_first_token_seconds", "From the request's arrival to its first token.", _FIRST_TOKEN_BUCKETS
        )
        self._queue = self._histogram(
            "request_queue_time_seconds",
            "How long a request's first sequence waited for its first step.",
            _QUEUE_BUCKETS,
        )
        self._between = self._histogram(
            "request_time_per_output_token_seconds",
            "Mean time per token behind the first, by sequence.",
            _TOKEN_BUCKETS,
        )
        self._whole = self._histogram(
            "e2e_request_latency_seconds", "From the request's arrival to its end.", _REQUEST_BUCKETS
        )
        self._prompt_lengths = self._histogram("request_prompt_tokens", "Prompt tokens of a request.", _LENGTH_BUCKETS)
        self._generated_lengths = self._histogram(
            "request_generation_tokens", "Generated tokens of a request.", _LENGTH_BUCKETS
        )

    def count_request(self, model: str, status: int) -> None:
        """One request was answered (or given up by its client: 499)."""
        self._requests.labels(model, str(status)).inc()

    def count_refusal(self, model: str, reason: str | None) -> None:
        """One request got an error. `reason` is its code, a word of the program's own."""
        self._refusals.labels(model, reason or "none").inc()

    def count_quota_refusal(self, model: str, limit: str, scope: str) -> None:
        """One request was over a quota; `limit` and `scope` are words of the registry file."""
        self._quota_refusals.labels(model, limit, scope).inc()

    def count_end(self, model: str, reason: FinishReason) -> None:
        """One sequence ended."""
        self._ended.labels(model, reason.value).inc()

    def count_tokens(self, model: str, usage: Usage) -> None:
        """The tokens of an ended request, the same numbers that its answer shows."""
        self._prompt.labels(model).inc(usage.num_prompt_tokens)
        self._cached.labels(model).inc(usage.num_cached_tokens)
        self._written.labels(model).inc(usage.num_cache_write_tokens)
        self._predicted.labels(model).inc(usage.num_completion_tokens)
        self._evicted.labels(model).inc(usage.num_evicted_tokens)
        self._prompt_lengths.labels(model).observe(usage.num_prompt_tokens)
        self._generated_lengths.labels(model).observe(usage.num_completion_tokens)

    def observe_first_token(self, model: str, seconds: float) -> None:
        """Time to the first token of a request."""
        self._first.labels(model).observe(seconds)

    def observe_queue(self, model: str, seconds: float) -> None:
        """How long a request waited for its first step."""
        self._queue.labels(model).observe(seconds)

    def observe_token_time(self, model: str, seconds: float) -> None:
        """Mean time per token behind the first."""
        self._between.labels(model).observe(seconds)

    def observe_request(self, model: str, seconds: float) -> None:
        """Duration of a whole request."""
        self._whole.labels(model).observe(seconds)

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def render_open_metrics(self) -> bytes:
        """The same in the OpenMetrics format."""
        return bytes(openmetrics.exposition.generate_latest(self._registry))  # type: ignore[no-untyped-call]

    def _counter(self, name: str, text: str, labels: tuple[str, ...] = ("model",)) -> Counter:
        return Counter(f"transom_{name}", text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"transom_{name}", text, ("model",), registry=self._registry, buckets=buckets)
