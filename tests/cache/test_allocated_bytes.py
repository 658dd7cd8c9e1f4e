"""What the cache really allocates is what the formulas of `transom.config.kv_size` say, to the byte, kind by kind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from tests.cache.small_models import FULL, SLIDING, make_model_config, slot_bytes
from transom.cache import CacheManager
from transom.config.engine_config import EngineConfig
from transom.config.features import ShortConvolution
from transom.config.kv_size import (
    blocks_for_tokens,
    conv_state_bytes,
    kv_bytes_for_tokens,
    kv_bytes_per_block,
    kv_bytes_per_token,
    kv_bytes_per_token_by_kind,
)
from transom.config.model_config import LayerKind, ModelConfig

CONV = LayerKind.SHORT_CONV
MIB = 2**20
WINDOWS = (1, 63, 64, 65, 100, 200)
MODELS = {
    "full": (FULL, FULL, FULL),
    "sliding": (SLIDING, SLIDING),
    "one full layer to three sliding ones": (SLIDING, SLIDING, SLIDING, FULL),
    "hybrid": (CONV, FULL, CONV, CONV, FULL),
    "all three kinds": (CONV, SLIDING, FULL, SLIDING, CONV),
}


def model(kinds: tuple[LayerKind, ...], window: int) -> ModelConfig:
    config = make_model_config(kinds, window if SLIDING in kinds else None)
    return replace(config, short_conv=ShortConvolution(4)) if CONV in kinds else config


def cache_of(config: ModelConfig, kv_dtype: Literal["f32", "f16"], chunk: int) -> CacheManager:
    return CacheManager(
        config,
        EngineConfig(
            model_path=Path("no-weights"),
            context_window=8192,
            kv_dtype=kv_dtype,
            kv_cache_ram_bytes=MIB,
            max_ram_bytes=None,
            num_threads=1,
            max_num_seqs=5,
            max_num_batched_tokens=chunk,
        ),
    )


@pytest.mark.parametrize("kv_dtype", ["f32", "f16"])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("kinds", MODELS.values(), ids=MODELS)
def test_blocks_of_each_kind_are_never_more_than_the_formula_and_reach_it(
    kinds: tuple[LayerKind, ...], window: int, kv_dtype: Literal["f32", "f16"]
) -> None:
    config, chunk = model(kinds, window), 48
    cache = cache_of(config, kv_dtype, chunk)
    handle = cache.open([])
    most = 0  # bytes of sliding layers
    for num_tokens in range(chunk, 900, chunk):
        assert cache.reserve(handle, num_tokens)
        for used in cache.stats().kinds:
            most = max(most, used.num_bytes_used if used.kind is SLIDING else 0)
            per_block = kv_bytes_per_block(config, kv_dtype, used.kind)
            assert used.num_bytes_used <= blocks_for_tokens(config, used.kind, num_tokens, chunk) * per_block
        cache.commit(handle, num_tokens)
        stats = cache.stats()
        for used in stats.kinds:
            per_block = kv_bytes_per_block(config, kv_dtype, used.kind)
            blocks = blocks_for_tokens(config, used.kind, num_tokens)
            assert used.num_bytes_used <= blocks * per_block
            if used.kind is FULL:
                assert used.num_bytes_used == blocks * per_block
        assert stats.tiers[0].num_bytes_used == sum(used.num_bytes_used for used in stats.kinds)
        assert stats.tiers[0].num_bytes_used <= kv_bytes_for_tokens(config, kv_dtype, num_tokens)
    if SLIDING in kinds:
        # One block less than the formula at most: where the window's start falls depends on the chunks.
        least = blocks_for_tokens(config, SLIDING, 900, chunk) - 1
        assert most >= least * kv_bytes_per_block(config, kv_dtype, SLIDING)
    cache.close(handle)
    assert cache.stats().tiers[0].num_bytes_used == 0


@pytest.mark.parametrize("window", WINDOWS)
def test_token_by_token_a_sliding_layer_reaches_the_formula_exactly(window: int) -> None:
    config = model((SLIDING, FULL, SLIDING), window)
    cache = cache_of(config, "f32", 1)
    handle = cache.open([])
    most = 0
    for num_tokens in range(1, 600):
        assert cache.reserve(handle, num_tokens)
        cache.commit(handle, num_tokens)
        most = max(most, next(used.num_bytes_used for used in cache.stats().kinds if used.kind is SLIDING))
    # A window of one token into a block and its last block: what the next token sees spans as many blocks as it can.
    spanned = -(-(window + 62) // 64) if window > 1 else 1
    assert most == spanned * kv_bytes_per_block(config, "f32", SLIDING)
    assert spanned <= blocks_for_tokens(config, SLIDING, 600)


@pytest.mark.parametrize("kinds", MODELS.values(), ids=MODELS)
def test_arena_and_convolution_states_are_the_whole_budget_but_for_less_than_a_slot(
    kinds: tuple[LayerKind, ...],
) -> None:
    config = model(kinds, 100)
    cache = cache_of(config, "f16", 64)
    used = cache.stats().tiers[0].num_bytes_total + 5 * conv_state_bytes(config)
    assert MIB - slot_bytes("f16") < used <= MIB
    assert conv_state_bytes(config) == 2 * kinds.count(CONV) * 3 * config.hidden_size * 4


@pytest.mark.parametrize("kinds", MODELS.values(), ids=MODELS)
def test_the_cost_of_a_token_is_the_sum_over_kinds_and_convolutions_cost_none(kinds: tuple[LayerKind, ...]) -> None:
    config = model(kinds, 100)
    by_kind = kv_bytes_per_token_by_kind(config, "f16")
    assert {*by_kind} == {*kinds} - {CONV}
    assert sum(by_kind.values()) == kv_bytes_per_token(config, "f16")
    for kind, size in by_kind.items():
        assert 64 * size == kv_bytes_per_block(config, "f16", kind)
