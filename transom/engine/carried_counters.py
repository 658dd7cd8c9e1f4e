"""Statistics that go on where those of an ended worker stopped: counters never go back. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields, replace
from typing import Any, TypeVar

from transom.cache.stats import CacheStats, TierStats
from transom.engine.reports import EngineStats

T = TypeVar("T")


def carried_on(ended: EngineStats | None, now: EngineStats) -> EngineStats:
    """`now` with the counters of both; `ended` is what all earlier workers counted, None if there were none."""
    if ended is None:
        return now
    return replace(
        _sum(ended, now, gauges=("scheduler", "cache", "steps")),
        scheduler=_sum(ended.scheduler, now.scheduler, gauges=("num_running", "num_waiting")),
        cache=_carried_cache(ended.cache, now.cache),
        steps=_sum(ended.steps, now.steps),
    )


def at_rest(ended: EngineStats) -> EngineStats:
    """The counters of workers that are gone; they hold nothing any more."""
    cache = ended.cache
    return replace(
        ended,
        scheduler=replace(ended.scheduler, num_running=0, num_waiting=0),
        cache=replace(
            cache,
            num_sequences=0,
            num_tokens=0,
            tiers=tuple(_empty(tier, but=("num_bytes_total",)) for tier in cache.tiers),
            kinds=tuple(_empty(kind, but=("num_layers", "num_blocks_total")) for kind in cache.kinds),
            sequences=(),
            conv_states=None,
        ),
    )


def _carried_cache(ended: CacheStats, now: CacheStats) -> CacheStats:
    earlier = {tier.name: tier for tier in ended.tiers}
    tiers = tuple(_carried_tier(earlier.get(tier.name), tier) for tier in now.tiers)
    return replace(now, tiers=tiers, reuse=_sum(ended.reuse, now.reuse))


def _carried_tier(ended: TierStats | None, now: TierStats) -> TierStats:
    return now if ended is None else replace(now, transfers=_sum(ended.transfers, now.transfers))


def _sum(ended: T, now: T, gauges: Collection[str] = ()) -> T:
    """Field by field, but for `gauges`, which are those of `now`."""
    names = [field.name for field in fields(now) if field.name not in gauges]  # type: ignore[arg-type]
    changes: dict[str, Any] = {name: getattr(ended, name) + getattr(now, name) for name in names}
    return replace(now, **changes)  # type: ignore[type-var]


def _empty(stats: T, but: Collection[str]) -> T:
    """The same with 0 for every integer, except for some."""
    zeros = {
        field.name: 0
        for field in fields(stats)  # type: ignore[arg-type]
        if type(getattr(stats, field.name)) is int and field.name not in but
    }
    return replace(stats, **zeros)  # type: ignore[type-var]
