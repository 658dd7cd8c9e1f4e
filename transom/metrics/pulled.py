"""What is pulled from the served models at every scrape: gauges, counters and histograms that live in their workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from transom.cache.stats import HOT_TIER, KindStats, ReuseStats, TierState, TierStats, TransferStats
from transom.engine.reports import StepStats
from transom.histogram import HistogramCounts
from transom.metrics.snapshot import MODEL_STATES, ModelSnapshot
from transom.scheduler.stats import SchedulerStats

T = TypeVar("T")
Rows = tuple[tuple[str, str, Callable[[T], float]], ...]
"""(name, description, value) of metrics that are read from one kind of thing."""


class PulledMetrics(Collector):
    """The metrics of the models that `snapshots` tells."""

    def __init__(self, snapshots: Callable[[], Iterable[ModelSnapshot]]) -> None:
        self._snapshots = snapshots

    def collect(self) -> Iterator[Metric]:
        models = tuple(self._snapshots())
        by_model = [((model.model,), model) for model in models]
        schedulers = [((model.model,), model.engine.scheduler) for model in models]
        steps = [((model.model,), model.engine.steps) for model in models]
        reuse = [((model.model,), model.engine.cache.reuse) for model in models]
        tiers = [((model.model, tier.name), tier) for model in models for tier in model.engine.cache.tiers]
        transfers = [(labels, tier.transfers) for labels, tier in tiers if tier.name != HOT_TIER]
        kinds = [((model.model, kind.kind.value), kind) for model in models for kind in model.engine.cache.kinds]
        yield from _gauges(_GAUGES, ("model",), by_model)
        yield from _counters(_COUNTERS, ("model",), by_model)
        yield from _counters(_SCHEDULER_COUNTERS, ("model",), schedulers)
        yield from _counters(_REUSE_COUNTERS, ("model",), reuse)
        yield from _gauges(_TIER_GAUGES, ("model", "tier"), tiers)
        yield from _counters(_TRANSFER_COUNTERS, ("model", "tier"), transfers)
        yield from _gauges(_KIND_GAUGES, ("model", "kind"), kinds)
        yield _model_states(models)
        yield _tier_states(tiers)
        yield _tokens_by_source(models)
        yield _step_durations(models)
        for name, text, steps_part in _STEP_HISTOGRAMS:
            yield _histogram(name, text, ("model",), [(labels, steps_part(each)) for labels, each in steps])
        for name, text, transfers_part in _TRANSFER_HISTOGRAMS:
            yield _histogram(
                name, text, ("model", "tier"), [(labels, transfers_part(each)) for labels, each in transfers]
            )


def _kv_usage(model: ModelSnapshot) -> float:
    """Share of the KV budget in RAM that is in use, 0..1."""
    ram = next((tier for tier in model.engine.cache.tiers if tier.num_bytes_total), None)
    return ram.num_bytes_used / ram.num_bytes_total if ram else 0.0


_GAUGES: Rows[ModelSnapshot] = (
    ("model_ready", "1 when the model can be asked.", lambda model: model.is_ready),
    ("num_requests_running", "Sequences in the batch.", lambda model: model.engine.scheduler.num_running),
    (
        "num_requests_waiting",
        "Sequences in the queue.",
        lambda model: model.engine.scheduler.num_waiting + model.num_queued,
    ),
    ("num_requests_waiting_for_load", "Requests until the model is loaded.", lambda model: model.num_waiting_for_load),
    ("kv_cache_usage_perc", "Share of the KV budget in RAM in use, 0..1.", _kv_usage),
    ("kv_cache_tokens", "Tokens whose KV is held.", lambda model: model.engine.cache.num_tokens),
    ("context_window_tokens", "The model's context window, as it is served.", lambda model: model.context_window),
    (
        "context_used_tokens",
        "Computed tokens of the longest sequence that runs.",
        lambda model: max((each.num_tokens for each in model.engine.cache.sequences), default=0),
    ),
    ("worker_resident_memory_bytes", "Memory of the model's process.", lambda model: model.worker_resident_bytes),
)
_COUNTERS: Rows[ModelSnapshot] = (
    ("model_loads", "How often the model was loaded.", lambda model: model.num_loads),
    ("worker_restarts", "How often the model's process was started again.", lambda model: model.num_restarts),
    ("engine_failures", "Requests that the engine failed on.", lambda model: model.engine.num_failed),
)
_SCHEDULER_COUNTERS: Rows[SchedulerStats] = (
    ("num_preemptions", "Sequences that gave up their room.", lambda each: each.num_preemptions),
    ("computed_tokens", "Rows that went through the model, guesses included.", lambda each: each.num_computed_tokens),
    ("spec_decode_num_draft_tokens", "Tokens that were guessed and computed.", lambda each: each.num_drafted_tokens),
    ("spec_decode_num_accepted_tokens", "Guessed tokens that were right.", lambda each: each.num_accepted_tokens),
)
_REUSE_COUNTERS: Rows[ReuseStats] = (
    ("prefix_cache_hits", "Sequences that began with KV of others.", lambda reuse: reuse.num_hits),
    ("prefix_cache_hit_tokens", "Tokens that these did not compute.", lambda reuse: reuse.num_hit_tokens),
    ("prefix_cache_hot_blocks", "Blocks of hits that were in RAM.", lambda reuse: reuse.num_hot_blocks),
    ("prefix_cache_cold_blocks", "Blocks of hits that were on SSD alone.", lambda reuse: reuse.num_cold_blocks),
    (
        "prefix_cache_recomputed_tokens",
        "Tokens that were sooner computed again than read.",
        lambda reuse: reuse.num_recomputed_tokens,
    ),
    ("prefix_cache_evicted_blocks", "Blocks whose room was wanted.", lambda reuse: reuse.num_evicted_blocks),
    ("prefix_cache_lost_blocks", "Blocks that did not come back right.", lambda reuse: reuse.num_lost_blocks),
)
_TIER_GAUGES: Rows[TierStats] = (
    ("kv_cache_used_bytes", "KV bytes in use.", lambda tier: tier.num_bytes_used),
    ("kv_cache_reuse_bytes", "KV bytes that ended requests left.", lambda tier: tier.num_bytes_reuse),
    ("kv_cache_total_bytes", "KV bytes of the budget.", lambda tier: tier.num_bytes_total),
    ("kv_cache_physical_bytes", "What the tier's directory takes on disk.", lambda tier: tier.num_physical_bytes),
)
_KIND_GAUGES: Rows[KindStats] = (
    ("kv_cache_used_blocks", "KV blocks in RAM.", lambda kind: kind.num_blocks_used),
    ("kv_cache_total_blocks", "KV blocks that fit in RAM.", lambda kind: kind.num_blocks_total),
    ("kv_cache_cold_blocks", "KV blocks that are on SSD alone.", lambda kind: kind.num_cold_blocks),
)
_TRANSFER_COUNTERS: Rows[TransferStats] = (
    ("kv_tier_read_bytes", "KV bytes read back.", lambda transfers: transfers.num_bytes_read),
    ("kv_tier_read_seconds", "Summed duration of reads, which overlap.", lambda transfers: transfers.read_seconds),
    ("kv_tier_written_bytes", "KV bytes written.", lambda transfers: transfers.num_bytes_written),
    ("kv_tier_write_seconds", "Summed duration of writes, which overlap.", lambda transfers: transfers.write_seconds),
    ("kv_tier_written_blocks", "KV blocks written.", lambda transfers: transfers.num_blocks_written),
    ("kv_tier_stall_seconds", "Time in which nothing was done but wait for it.", lambda each: each.stall_seconds),
    ("kv_tier_checksum_failures", "Reads that brought other bytes.", lambda each: each.num_checksum_failures),
    ("kv_tier_read_errors", "Reads that failed otherwise.", lambda transfers: transfers.num_read_errors),
    ("kv_tier_write_errors", "Writes that failed.", lambda transfers: transfers.num_write_errors),
    ("kv_tier_pauses", "How often writing was stopped for a while.", lambda transfers: transfers.num_pauses),
)
_SOURCES: tuple[tuple[str, Callable[[SchedulerStats, ReuseStats], int]], ...] = (
    ("computed", lambda scheduler, _: scheduler.num_computed_tokens - scheduler.num_drafted_tokens),
    ("cache_ram", lambda _, reuse: reuse.num_hit_tokens - reuse.num_cold_hit_tokens),
    ("cache_ssd", lambda _, reuse: reuse.num_cold_hit_tokens),
    ("guess_accepted", lambda scheduler, _: scheduler.num_accepted_tokens),
    ("guess_rejected", lambda scheduler, _: scheduler.num_drafted_tokens - scheduler.num_accepted_tokens),
)
_STEP_KINDS: tuple[tuple[str, Callable[[StepStats], HistogramCounts]], ...] = (
    ("prefill", lambda steps: steps.prefill_seconds),
    ("decode", lambda steps: steps.decode_seconds),
    ("mixed", lambda steps: steps.mixed_seconds),
)
_STEP_HISTOGRAMS: tuple[tuple[str, str, Callable[[StepStats], HistogramCounts]], ...] = (
    ("step_tokens", "Rows of one step of the engine.", lambda steps: steps.num_tokens),
    (
        "inter_token_latency_seconds",
        "Time between the tokens of one sequence; tokens of one step share it evenly.",
        lambda steps: steps.inter_token_seconds,
    ),
    ("step_cold_read_bytes", "Bytes from SSD in one step that read any.", lambda steps: steps.cold_read_bytes),
    ("step_cold_stall_seconds", "Time for which such a step only waited for SSD.", lambda steps: steps.stall_seconds),
)
_TRANSFER_HISTOGRAMS: tuple[tuple[str, str, Callable[[TransferStats], HistogramCounts]], ...] = (
    ("kv_tier_read_latency_seconds", "Duration of one transfer into RAM.", lambda transfers: transfers.read_latency),
    ("kv_tier_write_latency_seconds", "Duration of one transfer to the tier.", lambda each: each.write_latency),
)


def _gauges(
    rows: Rows[T], labels: tuple[str, ...], things: Iterable[tuple[tuple[str, ...], T]]
) -> Iterator[GaugeMetricFamily]:
    for name, text, value in rows:
        family = GaugeMetricFamily(f"transom_{name}", text, labels=labels)
        for names, thing in things:
            family.add_metric(names, float(value(thing)))
        yield family


def _counters(
    rows: Rows[T], labels: tuple[str, ...], things: Iterable[tuple[tuple[str, ...], T]]
) -> Iterator[CounterMetricFamily]:
    for name, text, value in rows:
        family = CounterMetricFamily(f"transom_{name}", text, labels=labels)
        for names, thing in things:
            family.add_metric(names, float(value(thing)))
        yield family


def _model_states(models: Iterable[ModelSnapshot]) -> Metric:
    family = GaugeMetricFamily("transom_model_state", "1 for the state a model is in.", labels=["model", "state"])
    for model in models:
        for state in MODEL_STATES:
            family.add_metric([model.model, state], float(model.state == state))
    return family


def _tier_states(tiers: Iterable[tuple[tuple[str, str], TierStats]]) -> Metric:
    text = "1 for the state a tier is in: on; paused (disk full) or off (disk fails) where nothing is written to it."
    family = GaugeMetricFamily("transom_kv_tier_state", text, labels=["model", "tier", "state"])
    for names, tier in tiers:
        for state in TierState:
            family.add_metric([*names, state.value], float(tier.state is state))
    return family


def _tokens_by_source(models: Iterable[ModelSnapshot]) -> Metric:
    text = (
        "Tokens by where their KV came from: computed as known tokens, found in RAM or on SSD, guessed right or wrong."
    )
    family = CounterMetricFamily("transom_tokens_by_source", text, labels=["model", "source"])
    for model in models:
        for source, count in _SOURCES:
            family.add_metric([model.model, source], float(count(model.engine.scheduler, model.engine.cache.reuse)))
    return family


def _step_durations(models: Iterable[ModelSnapshot]) -> Metric:
    text = "Duration of one step of the engine: reading prompts, generating (decode), or both at once (mixed)."
    steps = [((model.model, kind), part(model.engine.steps)) for model in models for kind, part in _STEP_KINDS]
    return _histogram("step_duration_seconds", text, ("model", "kind"), steps)


def _histogram(
    name: str, text: str, labels: tuple[str, ...], things: Iterable[tuple[tuple[str, ...], HistogramCounts]]
) -> Metric:
    """Without a sample where nothing was ever counted."""
    family = HistogramMetricFamily(f"transom_{name}", text, labels=labels)
    for names, counted in things:
        if counted.bounds:
            family.add_metric(names, _buckets(counted), counted.total)
    return family


def _buckets(counted: HistogramCounts) -> list[tuple[str, float]]:
    """Cumulative, as the format wants them."""
    seen, buckets = 0, list[tuple[str, float]]()
    for bound, count in zip((*counted.bounds, float("inf")), counted.counts, strict=True):
        seen += count
        buckets.append(("+Inf" if bound == float("inf") else str(bound), float(seen)))
    return buckets
