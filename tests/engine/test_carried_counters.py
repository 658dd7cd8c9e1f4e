"""Counters of a worker that follows another go on where that one stopped; what is in use is the new one's alone."""

from __future__ import annotations

from transom.cache.stats import (
    CacheStats,
    ConvStateStats,
    KindStats,
    ReuseStats,
    SequenceStats,
    TierStats,
    TransferStats,
)
from transom.config.model_config import LayerKind
from transom.engine.carried_counters import at_rest, carried_on
from transom.engine.reports import EngineStats, StepStats
from transom.histogram import HistogramCounts
from transom.request import CacheStrategy
from transom.scheduler.stats import SchedulerStats


def stats(scale: int) -> EngineStats:
    counts = HistogramCounts((1.0,), (scale, 2 * scale), 3.0 * scale)
    cold = TierStats("cold", scale, 100, transfers=TransferStats(num_bytes_read=scale, read_latency=counts))
    return EngineStats(
        SchedulerStats(scale, scale, scale, scale, scale, scale, scale, scale, scale),
        CacheStats(
            64,
            scale,
            scale,
            (TierStats("hot", scale, 1000), cold),
            (KindStats(LayerKind.FULL_ATTENTION, 3, scale, 50, scale, scale, scale, scale),),
            (SequenceStats("a", CacheStrategy.FULL, scale, scale, 0, 0),),
            ReuseStats(num_hits=scale, num_cold_hit_tokens=scale),
            ConvStateStats(1, scale, 8, scale, 80),
        ),
        num_steps=scale,
        step_seconds=float(scale),
        num_failed=scale,
        steps=StepStats(decode_seconds=counts),
    )


def test_without_an_earlier_worker_nothing_changes() -> None:
    assert carried_on(None, stats(3)) == stats(3)


def test_counters_add_up_and_gauges_are_those_of_the_new_worker() -> None:
    both = carried_on(stats(10), stats(3))
    assert (both.num_steps, both.step_seconds, both.num_failed) == (13, 13.0, 13)
    assert (both.scheduler.num_running, both.scheduler.num_waiting) == (3, 3)
    assert both.scheduler.num_generated_tokens == both.scheduler.num_drafted_tokens == 13
    assert both.steps.decode_seconds == HistogramCounts((1.0,), (13, 26), 39.0)
    assert both.cache.reuse == ReuseStats(num_hits=13, num_cold_hit_tokens=13)
    [hot, cold] = both.cache.tiers
    assert (hot.num_bytes_used, cold.num_bytes_used, cold.num_bytes_total) == (3, 3, 100)
    assert cold.transfers.num_bytes_read == 13
    assert cold.transfers.read_latency.num_values == 39
    assert both.cache.kinds == stats(3).cache.kinds


def test_who_is_gone_holds_nothing_and_has_counted_what_it_has() -> None:
    rest = at_rest(stats(10))
    assert (rest.scheduler.num_running, rest.scheduler.num_waiting, rest.cache.num_tokens) == (0, 0, 0)
    assert rest.scheduler.num_generated_tokens == rest.num_failed == 10
    assert [(tier.num_bytes_used, tier.num_bytes_total) for tier in rest.cache.tiers] == [(0, 1000), (0, 100)]
    assert rest.cache.kinds == (KindStats(LayerKind.FULL_ATTENTION, 3, 0, 50, 0),)
    assert rest.cache.sequences == ()
    assert rest.cache.reuse.num_hits == 10
