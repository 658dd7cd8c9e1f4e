"""Everything /metrics shows: counters and histograms recorded per request, gauges pulled at every scrape.

Names follow vLLM's with the prefix `transom_`. Labels are bounded: model names and status codes, never keys or users.
Not thread-safe: recorded and rendered in the event loop's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

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
        self._registry.register(_PulledMetrics(snapshots))
        self._requests = self._counter("requests", "Answered requests by HTTP status.", ("model", "status"))
        self._prompt = self._counter("prompt_tokens", "Prompt tokens of ended requests.")
        self._cached = self._counter("prompt_tokens_cached", "Prompt tokens whose KV came from the cache.")
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


class _PulledMetrics(Collector):
    """Gauges and counters that live in the workers."""

    def __init__(self, snapshots: Callable[[], Iterable[ModelSnapshot]]) -> None:
        self._snapshots = snapshots

    def collect(self) -> Iterator[Metric]:
        models = tuple(self._snapshots())
        for name, text, read in _GAUGES:
            yield _family(GaugeMetricFamily(f"transom_{name}", text, labels=["model"]), models, read)
        for name, text, read in _COUNTERS:
            yield _family(CounterMetricFamily(f"transom_{name}", text, labels=["model"]), models, read)
        yield from _tier_metrics(models)
        yield from _block_metrics(models)


_Read = Callable[[ModelSnapshot], float]


def _kv_usage(model: ModelSnapshot) -> float:
    """Share of the KV budget in RAM that is in use, 0..1."""
    ram = next((tier for tier in model.tiers if tier.num_bytes_total), None)
    return ram.num_bytes_used / ram.num_bytes_total if ram else 0.0


_GAUGES: tuple[tuple[str, str, _Read], ...] = (
    ("model_ready", "1 when the model can be asked.", lambda model: model.is_ready),
    ("num_requests_running", "Sequences in the batch.", lambda model: model.num_running),
    ("num_requests_waiting", "Sequences in the queue.", lambda model: model.num_waiting),
    ("kv_cache_usage_perc", "Share of the KV budget in use, 0..1.", _kv_usage),
    ("kv_cache_tokens", "Tokens whose KV is held.", lambda model: model.kv_tokens),
    ("worker_resident_memory_bytes", "Memory of the model's process.", lambda model: model.worker_resident_bytes),
)
_COUNTERS: tuple[tuple[str, str, _Read], ...] = (
    ("num_preemptions", "Sequences that gave up their room.", lambda model: model.num_preemptions),
    ("computed_tokens", "Tokens that went through the model.", lambda model: model.num_computed_tokens),
    ("worker_restarts", "How often the model's process was started again.", lambda model: model.num_restarts),
)


def _family(
    family: GaugeMetricFamily | CounterMetricFamily, models: tuple[ModelSnapshot, ...], read: _Read
) -> GaugeMetricFamily | CounterMetricFamily:
    for model in models:
        family.add_metric([model.model], float(read(model)))
    return family


def _tier_metrics(models: tuple[ModelSnapshot, ...]) -> Iterator[Metric]:
    used = GaugeMetricFamily("transom_kv_cache_used_bytes", "KV bytes in use.", labels=["model", "tier"])
    total = GaugeMetricFamily("transom_kv_cache_total_bytes", "KV bytes of the budget.", labels=["model", "tier"])
    for model in models:
        for tier in model.tiers:
            used.add_metric([model.model, tier.name], tier.num_bytes_used)
            total.add_metric([model.model, tier.name], tier.num_bytes_total)
    yield from (used, total)


def _block_metrics(models: tuple[ModelSnapshot, ...]) -> Iterator[Metric]:
    used = GaugeMetricFamily("transom_kv_cache_used_blocks", "KV blocks in use.", labels=["model", "kind"])
    total = GaugeMetricFamily("transom_kv_cache_total_blocks", "KV blocks that fit.", labels=["model", "kind"])
    for model in models:
        for kind, num_used, num_total in model.blocks_by_kind:
            used.add_metric([model.model, kind], num_used)
            total.add_metric([model.model, kind], num_total)
    yield from (used, total)
