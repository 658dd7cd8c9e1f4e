"""What is pulled from the served models at every scrape: gauges and counters that live in their workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from transom.metrics.snapshot import KindUsage, ModelSnapshot, Reuse, TierUsage, Transfers


class PulledMetrics(Collector):
    """Gauges and counters that live in the workers."""

    def __init__(self, snapshots: Callable[[], Iterable[ModelSnapshot]]) -> None:
        self._snapshots = snapshots

    def collect(self) -> Iterator[Metric]:
        models = tuple(self._snapshots())
        for name, text, read in _GAUGES:
            yield _family(GaugeMetricFamily(f"transom_{name}", text, labels=["model"]), models, read)
        for name, text, read in _COUNTERS:
            yield _family(CounterMetricFamily(f"transom_{name}", text, labels=["model"]), models, read)
        for name, text, count in _REUSE_COUNTERS:
            family = CounterMetricFamily(f"transom_{name}", text, labels=["model"])
            for model in models:
                family.add_metric([model.model], count(model.reuse))
            yield family
        yield from _tier_metrics(models)
        yield from _transfer_metrics(models)
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
    ("num_requests_waiting_for_load", "Requests until the model is loaded.", lambda model: model.num_waiting_for_load),
    ("kv_cache_usage_perc", "Share of the KV budget in use, 0..1.", _kv_usage),
    ("kv_cache_tokens", "Tokens whose KV is held.", lambda model: model.kv_tokens),
    ("worker_resident_memory_bytes", "Memory of the model's process.", lambda model: model.worker_resident_bytes),
)
_COUNTERS: tuple[tuple[str, str, _Read], ...] = (
    ("num_preemptions", "Sequences that gave up their room.", lambda model: model.num_preemptions),
    ("computed_tokens", "Tokens that went through the model.", lambda model: model.num_computed_tokens),
    ("model_loads", "How often the model was loaded.", lambda model: model.num_loads),
    ("spec_decode_num_draft_tokens", "Tokens that were guessed and computed.", lambda model: model.num_drafted_tokens),
    ("spec_decode_num_accepted_tokens", "Guessed tokens that were right.", lambda model: model.num_accepted_tokens),
    ("worker_restarts", "How often the model's process was started again.", lambda model: model.num_restarts),
)
_REUSE_COUNTERS: tuple[tuple[str, str, Callable[[Reuse], float]], ...] = (
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
_TIER_GAUGES: tuple[tuple[str, str, Callable[[TierUsage], float]], ...] = (
    ("kv_cache_used_bytes", "KV bytes in use.", lambda tier: tier.num_bytes_used),
    ("kv_cache_reuse_bytes", "KV bytes that ended requests left.", lambda tier: tier.num_bytes_reuse),
    ("kv_cache_total_bytes", "KV bytes of the budget.", lambda tier: tier.num_bytes_total),
    ("kv_cache_physical_bytes", "What the tier's directory takes on disk.", lambda tier: tier.num_physical_bytes),
)
_TIER_STATES = ("on", "paused", "off")
_KIND_GAUGES: tuple[tuple[str, str, Callable[[KindUsage], float]], ...] = (
    ("kv_cache_used_blocks", "KV blocks in RAM.", lambda kind: kind.num_hot),
    ("kv_cache_total_blocks", "KV blocks that fit in RAM.", lambda kind: kind.num_hot_total),
    ("kv_cache_cold_blocks", "KV blocks that are on SSD alone.", lambda kind: kind.num_cold),
)
_TRANSFER_COUNTERS: tuple[tuple[str, str, Callable[[Transfers], float]], ...] = (
    ("read_bytes", "KV bytes read back.", lambda transfers: transfers.num_bytes_read),
    ("read_seconds", "Summed duration of reads, which overlap.", lambda transfers: transfers.read_seconds),
    ("written_bytes", "KV bytes written.", lambda transfers: transfers.num_bytes_written),
    ("write_seconds", "Summed duration of writes, which overlap.", lambda transfers: transfers.write_seconds),
    ("written_blocks", "KV blocks written.", lambda transfers: transfers.num_blocks_written),
    ("stall_seconds", "Time in which nothing was done but wait for it.", lambda transfers: transfers.stall_seconds),
    ("checksum_failures", "Reads that brought other bytes.", lambda transfers: transfers.num_checksum_failures),
    ("read_errors", "Reads that failed otherwise.", lambda transfers: transfers.num_read_errors),
    ("write_errors", "Writes that failed.", lambda transfers: transfers.num_write_errors),
    ("pauses", "How often writing was stopped for a while.", lambda transfers: transfers.num_pauses),
)


def _family(
    family: GaugeMetricFamily | CounterMetricFamily, models: tuple[ModelSnapshot, ...], read: _Read
) -> GaugeMetricFamily | CounterMetricFamily:
    for model in models:
        family.add_metric([model.model], float(read(model)))
    return family


def _tier_metrics(models: tuple[ModelSnapshot, ...]) -> Iterator[Metric]:
    tiers = [(model.model, tier) for model in models for tier in model.tiers]
    for name, text, read in _TIER_GAUGES:
        family = GaugeMetricFamily(f"transom_{name}", text, labels=["model", "tier"])
        for model, tier in tiers:
            family.add_metric([model, tier.name], read(tier))
        yield family
    yield _tier_states(tiers)


def _tier_states(tiers: Iterable[tuple[str, TierUsage]]) -> Metric:
    text = "1 for the state a tier is in: on; paused (disk full) or off (disk fails) where nothing is written to it."
    family = GaugeMetricFamily("transom_kv_tier_state", text, labels=["model", "tier", "state"])
    for model, tier in tiers:
        for state in _TIER_STATES:
            family.add_metric([model, tier.name, state], float(tier.state == state))
    return family


def _transfer_metrics(models: tuple[ModelSnapshot, ...]) -> Iterator[Metric]:
    for name, text, read in _TRANSFER_COUNTERS:
        family = CounterMetricFamily(f"transom_kv_tier_{name}", text, labels=["model", "tier"])
        for model in models:
            for tier in model.tiers:
                if tier.transfers is not None:
                    family.add_metric([model.model, tier.name], read(tier.transfers))
        yield family


def _block_metrics(models: tuple[ModelSnapshot, ...]) -> Iterator[Metric]:
    for name, text, read in _KIND_GAUGES:
        family = GaugeMetricFamily(f"transom_{name}", text, labels=["model", "kind"])
        for model in models:
            for kind in model.kinds:
                family.add_metric([model.model, kind.kind], read(kind))
        yield family
