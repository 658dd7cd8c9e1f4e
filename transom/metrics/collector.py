"""Everything /metrics shows: counters and histograms recorded per request, gauges pulled at every scrape.

Names follow vLLM's with the prefix `transom_`. Labels are bounded: model names and status codes, never keys or users.
Not thread-safe: recorded and rendered in the event loop's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from transom.metrics.pulled import PulledMetrics
from transom.metrics.snapshot import ModelSnapshot
from transom.request import Usage

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
UNKNOWN_MODEL = "unknown"
"""Label of requests that name no served model."""

_FIRST_TOKEN_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_TOKEN_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2)
_REQUEST_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class MetricsCollector:
    """The metrics of one server. `snapshots` is called at every scrape."""

    def __init__(self, snapshots: Callable[[], Iterable[ModelSnapshot]]) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(PulledMetrics(snapshots))
        self._requests = self._counter("requests", "Answered requests by HTTP status.", ("model", "status"))
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
        self._between = self._histogram(
            "inter_token_latency_seconds", "Mean time between the tokens of one sequence.", _TOKEN_BUCKETS
        )
        self._whole = self._histogram(
            "e2e_request_latency_seconds", "From the request's arrival to its end.", _REQUEST_BUCKETS
        )

    def count_request(self, model: str, status: int) -> None:
        """One request was answered (or given up by its client: 499)."""
        self._requests.labels(model, str(status)).inc()

    def count_tokens(self, model: str, usage: Usage) -> None:
        """The tokens of an ended request, the same numbers that its answer shows."""
        self._prompt.labels(model).inc(usage.num_prompt_tokens)
        self._cached.labels(model).inc(usage.num_cached_tokens)
        self._written.labels(model).inc(usage.num_cache_write_tokens)
        self._predicted.labels(model).inc(usage.num_completion_tokens)
        self._evicted.labels(model).inc(usage.num_evicted_tokens)

    def observe_first_token(self, model: str, seconds: float) -> None:
        """Time to the first token of a request."""
        self._first.labels(model).observe(seconds)

    def observe_token_interval(self, model: str, seconds: float) -> None:
        """Mean time per token behind the first."""
        self._between.labels(model).observe(seconds)

    def observe_request(self, model: str, seconds: float) -> None:
        """Duration of a whole request."""
        self._whole.labels(model).observe(seconds)

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, text: str, labels: tuple[str, ...] = ("model",)) -> Counter:
        return Counter(f"transom_{name}", text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"transom_{name}", text, ("model",), registry=self._registry, buckets=buckets)
