"""What is planned is what a cache then has, and as many sequences are let in as were promised."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.cache.small_models import FULL, SLIDING, make_model_config
from transom.cache import CacheManager
from transom.cache.budget_plan import planned_budget
from transom.config.engine_config import EngineConfig
from transom.config.features import ShortConvolution
from transom.config.model_config import LayerKind, ModelConfig
from transom.errors import ConfigError

CONV = LayerKind.SHORT_CONV
MIB = 2**20
KINDS = {
    "full": (FULL, FULL, FULL),
    "sliding": (SLIDING, SLIDING),
    "one full to two sliding": (SLIDING, SLIDING, FULL),
    "hybrid": (CONV, FULL, CONV),
}


def model(kinds: tuple[LayerKind, ...]) -> ModelConfig:
    config = make_model_config(kinds, 100 if SLIDING in kinds else None)
    return replace(config, short_conv=ShortConvolution(4)) if CONV in kinds else config


def limits(directory: Path, *, ssd: int = 0, ram: int = MIB, hot_tokens: int | None = None) -> EngineConfig:
    return EngineConfig(
        model_path=Path("no-weights"),
        context_window=8192,
        kv_dtype="f16",
        kv_cache_ram_bytes=ram,
        max_ram_bytes=None,
        num_threads=1,
        max_num_seqs=16,
        max_num_batched_tokens=128,
        ssd_path=directory / "cold" if ssd else None,
        max_ssd_bytes=ssd,
        hot_tokens=hot_tokens,
    )


def identify(_: bytes | None) -> tuple[bytes, bytes]:
    return bytes(32), b"remembered"


def cache_of(config: ModelConfig, engine_config: EngineConfig) -> CacheManager:
    """As a worker has it: what is written outlives the run."""
    return CacheManager(config, engine_config, identify=identify)


@pytest.mark.parametrize("hot_tokens", [None, 256])
@pytest.mark.parametrize("ssd", [0, MIB, 3 * MIB + 12345])
@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
def test_the_budget_of_a_cache_is_the_planned_one(
    kinds: tuple[LayerKind, ...], ssd: int, hot_tokens: int | None, tmp_path: Path
) -> None:
    config, engine_config = model(kinds), limits(tmp_path, ssd=ssd, hot_tokens=hot_tokens)
    planned = planned_budget(config, engine_config)
    cache = cache_of(config, engine_config)
    try:
        assert cache.budget == planned
        assert cache.stats().tiers[0].num_bytes_total == planned.num_slots * planned.slot_bytes
    finally:
        cache.shut_down()


def test_what_strangers_put_into_the_directory_is_counted(tmp_path: Path) -> None:
    config, engine_config = model(KINDS["full"]), limits(tmp_path, ssd=4 * MIB)
    (tmp_path / "cold").mkdir()
    (tmp_path / "cold" / "holiday.jpg").write_bytes(bytes(MIB))
    cache = cache_of(config, engine_config)
    try:
        assert cache.budget.num_cold_slots < planned_budget(config, engine_config).num_cold_slots
        assert (
            cache.budget.num_cold_slots >= planned_budget(config, engine_config, other_ssd_bytes=2 * MIB).num_cold_slots
        )
    finally:
        cache.shut_down()


@pytest.mark.parametrize("num_tokens", [1, 64, 100, 700])
@pytest.mark.parametrize("ssd", [0, 2 * MIB])
@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
def test_as_many_sequences_are_let_in_as_were_promised(
    kinds: tuple[LayerKind, ...], ssd: int, num_tokens: int, tmp_path: Path
) -> None:
    config, engine_config = model(kinds), limits(tmp_path, ssd=ssd, ram=MIB // 4 + 100_000)
    promised = planned_budget(config, engine_config).max_sequences(num_tokens)
    cache = cache_of(config, engine_config)
    try:
        handles = []
        for number in range(promised):
            handles.append(cache.open([number] * num_tokens))
            assert cache.can_start(handles[-1])
        one_more = cache.open([promised] * num_tokens)
        assert promised == 0 or not cache.can_start(one_more)
    finally:
        cache.shut_down()


def test_a_sequence_that_never_fits_is_promised_to_nobody(tmp_path: Path) -> None:
    budget = planned_budget(model(KINDS["full"]), limits(tmp_path, ram=40_000))
    longest = budget.max_tokens(10**6)
    assert budget.max_sequences(longest) == 1
    assert budget.max_sequences(longest + 1) == 0


def test_budgets_without_room_for_a_block_are_an_error_in_one_line(tmp_path: Path) -> None:
    config = model(KINDS["full"])
    with pytest.raises(ConfigError, match="kv_cache_ram_mb"):
        planned_budget(config, limits(tmp_path, ram=1000))
    with pytest.raises(ConfigError, match="max_ssd_mb"):
        planned_budget(config, limits(tmp_path, ssd=30_000))
