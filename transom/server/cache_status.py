"""GET /v1/models/{id}/cache: where the KV of a model and of each of its running requests is, and what that costs."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from transom.cache.stats import HOT_TIER, CacheStats, ConvStateStats, KindStats, ReuseStats, SequenceStats, TierStats
from transom.errors import ModelLoadingError
from transom.registry import ServedModel
from transom.server.answering import json_response
from transom.server.caller import caller_of, check_admin
from transom.server.context import ServerContext


def cache_router(context: ServerContext) -> APIRouter:
    """The route under both of its paths; must come before the one of single models, which takes any path.

    It shows every caller's requests, so it is for admins.
    """
    router = APIRouter()

    async def get_cache(model_id: str, request: Request) -> Response:
        check_admin(request)
        return json_response(_describe(context.registry.get(model_id, caller_of(request).may_use)))

    for prefix in ("/v1", ""):
        path = f"{prefix}/models/{{model_id:path}}/cache"
        router.add_api_route(path, get_cache, methods=["GET"], response_model=None)
    return router


def _describe(served: ServedModel) -> dict[str, Any]:
    """As of the worker's last report, which is at most half a second and a step old."""
    served.check_ready()
    stats = served.engine.stats()
    if stats is None:
        raise ModelLoadingError(f"The model '{served.id}' has not reported yet.", retry_after_seconds=1.0)
    return {
        "object": "model.cache",
        "model": served.id,
        "steps": stats.num_steps,
        "cache": _strategy(served),
        "budgets": _budgets(served),
        **cache_numbers(stats.cache),
        "requests": [sequence_numbers(sequence) for sequence in stats.cache.sequences],
    }


def _strategy(served: ServedModel) -> dict[str, Any]:
    """The one of requests that choose none; sizes that it does not use are null or 0."""
    options = served.engine_config.cache
    return {
        "strategy": options.strategy.value,
        "window_size": options.window_size,
        "keep_first": options.keep_first,
    }


def _budgets(served: ServedModel) -> dict[str, Any]:
    engine = served.engine_config
    return {
        "kv_cache_ram_bytes": engine.kv_cache_ram_bytes,
        "max_ssd_bytes": engine.max_ssd_bytes,
        "hot_tokens": engine.hot_tokens,
        "max_request_tokens": served.max_request_tokens(engine.cache),
    }


def cache_numbers(cache: CacheStats) -> dict[str, Any]:
    """What concerns all requests."""
    return {
        "block_size": cache.block_size,
        "num_sequences": cache.num_sequences,
        "num_tokens": cache.num_tokens,
        "tiers": [_tier(tier) for tier in cache.tiers],
        "layers": [_kind(kind) for kind in cache.kinds],
        "conv_states": None if cache.conv_states is None else _conv_states(cache.conv_states),
        "reuse": _reuse(cache.reuse),
    }


def _tier(tier: TierStats) -> dict[str, Any]:
    return {
        "name": tier.name,
        "state": tier.state.value,
        "used_bytes": tier.num_bytes_used,
        "reuse_bytes": tier.num_bytes_reuse,
        "total_bytes": tier.num_bytes_total,
        **({} if tier.name == HOT_TIER else _disk(tier)),
    }


def _disk(tier: TierStats) -> dict[str, Any]:
    """What only a tier on disk has."""
    transfers = tier.transfers
    return {
        "physical_bytes": tier.num_physical_bytes,
        "is_direct": tier.is_direct,
        "read_bytes": transfers.num_bytes_read,
        "read_seconds": transfers.read_seconds,
        "written_bytes": transfers.num_bytes_written,
        "write_seconds": transfers.write_seconds,
        "written_blocks": transfers.num_blocks_written,
        "stall_seconds": transfers.stall_seconds,
        "checksum_failures": transfers.num_checksum_failures,
        "read_errors": transfers.num_read_errors,
        "write_errors": transfers.num_write_errors,
        "pauses": transfers.num_pauses,
    }


def _kind(kind: KindStats) -> dict[str, Any]:
    return {
        "kind": kind.kind.value,
        "num_layers": kind.num_layers,
        "hot_blocks": kind.num_blocks_used,
        "hot_blocks_total": kind.num_blocks_total,
        "cold_blocks": kind.num_cold_blocks,
        "hot_reuse_blocks": kind.num_reuse_blocks,
        "cold_reuse_blocks": kind.num_cold_reuse_blocks,
    }


def _reuse(reuse: ReuseStats) -> dict[str, Any]:
    """What beginning with the KV of others did so far."""
    return {
        "hits": reuse.num_hits,
        "hit_tokens": reuse.num_hit_tokens,
        "hot_blocks": reuse.num_hot_blocks,
        "cold_blocks": reuse.num_cold_blocks,
        "recomputed_tokens": reuse.num_recomputed_tokens,
        "evicted_blocks": reuse.num_evicted_blocks,
        "lost_blocks": reuse.num_lost_blocks,
    }


def _conv_states(states: ConvStateStats) -> dict[str, Any]:
    """Short convolutions keep a state for each sequence, in `kv_cache_ram_bytes` beside the hot tier."""
    return {
        "num_layers": states.num_layers,
        "sequences": states.num_sequences_used,
        "sequences_total": states.num_sequences_total,
        "used_bytes": states.num_bytes_used,
        "total_bytes": states.num_bytes_total,
    }


def sequence_numbers(sequence: SequenceStats) -> dict[str, Any]:
    """`request_id` is the id of the answer, the number of its prompt and of its candidate."""
    return {
        "request_id": sequence.request_id,
        "strategy": sequence.strategy.value,
        "tokens": sequence.num_tokens,
        "hot_tokens": sequence.num_hot_tokens,
        "cold_tokens": sequence.num_cold_tokens,
        "evicted_tokens": sequence.num_evicted_tokens,
    }
