"""What the served models say about themselves, in the words of the metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

import psutil

from transom.cache.stats import ReuseStats, TierStats, TransferStats
from transom.engine import EngineStats
from transom.engine.reports import StepStats
from transom.metrics import KindUsage, ModelSnapshot, Reuse, Steps, TierUsage, Transfers
from transom.registry import ModelRegistry, ModelSlot, ServedModel
from transom.server.turns import Turns

HOT_TIER = "hot"


def take_snapshots(registry: ModelRegistry, turns: Mapping[str, Turns]) -> Iterable[ModelSnapshot]:
    """Every model as of its worker's last report; what waits here for its turn there, as of now."""
    return [_snapshot(served, registry.slot(served), turns.get(served.id)) for served in registry.models()]


def _snapshot(served: ServedModel, slot: ModelSlot, turns: Turns | None) -> ModelSnapshot:
    snapshot = _worker_snapshot(served, slot)
    return snapshot if turns is None else replace(snapshot, num_waiting=snapshot.num_waiting + turns.num_waiting)


def _worker_snapshot(served: ServedModel, slot: ModelSlot) -> ModelSnapshot:
    stats = served.engine.counted()
    return ModelSnapshot(
        served.id,
        served.is_ready,
        state=served.state.value,
        context_window=served.llm.context_window,
        num_restarts=served.engine.num_restarts,
        num_loads=slot.num_loads,
        num_waiting_for_load=len(slot.waiting),
        worker_resident_bytes=resident_bytes(served.engine.process_id),
        **({} if stats is None else _numbers(stats)),
    )


def _numbers(stats: EngineStats) -> dict[str, Any]:
    scheduler, cache = stats.scheduler, stats.cache
    return {
        "num_running": scheduler.num_running,
        "num_waiting": scheduler.num_waiting,
        "num_failed": stats.num_failed,
        "num_preemptions": scheduler.num_preemptions,
        "num_computed_tokens": scheduler.num_computed_tokens,
        "num_drafted_tokens": scheduler.num_drafted_tokens,
        "num_accepted_tokens": scheduler.num_accepted_tokens,
        "kv_tokens": cache.num_tokens,
        "longest_sequence_tokens": max((each.num_tokens for each in cache.sequences), default=0),
        "reuse": Reuse(**_same(cache.reuse)),
        "steps": Steps(**_same(stats.steps)),
        "tiers": tuple(_tier(tier) for tier in cache.tiers),
        "kinds": tuple(
            KindUsage(kind.kind.value, kind.num_blocks_used, kind.num_blocks_total, kind.num_cold_blocks)
            for kind in cache.kinds
        ),
    }


def _tier(tier: TierStats) -> TierUsage:
    """Nothing is carried to and from the hot tier, which is where the work is done."""
    is_hot = tier.name == HOT_TIER
    return TierUsage(
        tier.name,
        tier.num_bytes_used,
        tier.num_bytes_total,
        num_bytes_reuse=tier.num_bytes_reuse,
        num_physical_bytes=tier.num_physical_bytes,
        state=tier.state.value,
        transfers=None if is_hot else Transfers(**_same(tier.transfers)),
    )


def _same(stats: ReuseStats | StepStats | TransferStats) -> dict[str, Any]:
    """What the metrics' own class of the same fields is made of."""
    return {field.name: getattr(stats, field.name) for field in fields(stats)}


def resident_bytes(process_id: int | None) -> int:
    """0 for a process that is not there (any more)."""
    if process_id is None:
        return 0
    try:
        return int(psutil.Process(process_id).memory_info().rss)
    except psutil.Error:
        return 0
