"""Settings of a registry entry whose feature does not exist yet. A feature that arrives deletes its line here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transom.config.registry_config import ModelEntry

__all__ = ["unsupported_settings"]


def unsupported_settings(entry: ModelEntry) -> Iterator[tuple[str, str, str]]:
    """(key, value, what there is instead) of every setting in the entry that would have no effect."""
    tiers = entry.tier_config
    if entry.path.suffix.lower() == ".gguf":
        yield "path", str(entry.path), "supported: directories with safetensors files"
    if entry.load != "at_start":
        yield "load", entry.load, "supported: at_start"
    if entry.quantization is not None:
        yield "quantization", entry.quantization, "weights keep the width of the checkpoint"
    if entry.cache.strategy != "full":
        yield "cache.strategy", entry.cache.strategy, "supported: full"
    if entry.resource_quota is not None:
        yield "resource_quota", "of a model", "no quotas are kept"
    if tiers.enable_distributed:
        yield "tier_config.enable_distributed", "true", "a model runs on one machine"
    if tiers.kv_dtype == "q8_0":
        yield "tier_config.kv_dtype", tiers.kv_dtype, "supported: f32, f16"
    if tiers.enable_tiering and tiers.max_ssd_mb > 0:
        yield "tier_config.max_ssd_mb", str(tiers.max_ssd_mb), "KV is kept in RAM only; 0 or enable_tiering false"
    if tiers.ssd_path is not None:
        yield "tier_config.ssd_path", str(tiers.ssd_path), "KV is kept in RAM only"
    if tiers.hot_tokens is not None:
        yield "tier_config.hot_tokens", str(tiers.hot_tokens), "all tokens of a sequence are in RAM"
