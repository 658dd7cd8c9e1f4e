"""What a registry entry makes of an architecture."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.config.directories import read
from transom.cache.budget_plan import planned_budget
from transom.config.engine_config import (
    MAX_DRAFTED_ROWS,
    MIB,
    EngineConfig,
    check_memory,
    kv_bytes_for_tokens,
    resolve,
    workspace_bytes,
)
from transom.config.kv_size import cold_bytes_per_block, conv_state_bytes, kv_bytes_per_block
from transom.config.model_config import LayerKind, ModelConfig
from transom.config.registry_config import ModelEntry
from transom.errors import ConfigError
from transom.request import CacheOptions, CacheStrategy

FULL, SLIDING = LayerKind.FULL_ATTENTION, LayerKind.SLIDING_ATTENTION
PLENTY = 2**40


def entry(**changes: Any) -> ModelEntry:
    return ModelEntry.model_validate({"id": "tiny", "path": "tiny", **changes})


def resolved(config: ModelConfig, *, ram: int = PLENTY, **changes: Any) -> tuple[ModelConfig, EngineConfig]:
    return resolve(entry(**changes), config, num_threads=2, available_ram_bytes=ram)


def test_an_entry_that_says_nothing_changes_nothing(tmp_path: Path) -> None:
    config = read(tmp_path)
    model_config, engine_config = resolved(config)
    assert model_config == config
    assert engine_config.context_window == 2048
    assert (engine_config.kv_dtype, engine_config.max_ram_bytes, engine_config.num_threads) == ("f16", None, 2)
    assert (engine_config.max_num_seqs, engine_config.max_num_batched_tokens) == (32, 512)
    assert (engine_config.max_num_waiting, engine_config.block_size) == (256, 64)


def test_the_context_window_may_be_lowered_and_the_rope_stays(tmp_path: Path) -> None:
    config = read(tmp_path, rope_scaling={"rope_type": "yarn", "factor": 4.0})
    model_config, engine_config = resolved(config, max_position_embeddings=100)
    assert model_config.max_position_embeddings == engine_config.context_window == 100
    assert model_config.rope == config.rope


def test_the_context_window_may_be_given_as_it_is_but_not_raised(tmp_path: Path) -> None:
    assert resolved(read(tmp_path), max_position_embeddings=2048)[0] == read(tmp_path)
    with pytest.raises(ConfigError, match=r"model tiny: max_position_embeddings is 2049, may only lower .* is 2048"):
        resolved(read(tmp_path), max_position_embeddings=2049)


def test_a_window_makes_every_attention_layer_of_a_full_model_slide(tmp_path: Path) -> None:
    model_config, _ = resolved(read(tmp_path), sliding_window=1024)
    assert (model_config.layer_types, model_config.sliding_window) == ((SLIDING,) * 4, 1024)


def test_a_window_as_wide_as_the_context_leaves_full_layers_full(tmp_path: Path) -> None:
    assert resolved(read(tmp_path), sliding_window=2048)[0] == read(tmp_path)
    lowered, _ = resolved(read(tmp_path), sliding_window=1024, max_position_embeddings=1024)
    assert lowered.layer_types == (FULL,) * 4


def test_a_window_narrows_the_models_own_and_never_widens_it(tmp_path: Path) -> None:
    config = read(tmp_path, "mistral", sliding_window=512)
    assert resolved(config, sliding_window=100)[0].sliding_window == 100
    assert resolved(config, sliding_window=512)[0] == config
    with pytest.raises(ConfigError, match=r"sliding_window is 513, may only narrow the model's own, which is 512"):
        resolved(config, sliding_window=513)


def test_a_window_narrows_both_kinds_of_a_mixed_model(tmp_path: Path) -> None:
    config = read(tmp_path, layer_types=[*["sliding_attention", "full_attention"] * 2], sliding_window=512)
    model_config, _ = resolved(config, sliding_window=128)
    assert (model_config.layer_types, model_config.sliding_window) == ((SLIDING,) * 4, 128)


def test_the_default_kv_budget_holds_four_full_sequences(tmp_path: Path) -> None:
    config = read(tmp_path)
    _, engine_config = resolved(config)
    assert planned_budget(config, engine_config).max_sequences(2048) == 4
    one_block_less = replace(
        engine_config, kv_cache_ram_bytes=engine_config.kv_cache_ram_bytes - kv_bytes_for_tokens(config, "f16", 1)
    )
    assert planned_budget(config, one_block_less).max_sequences(2048) == 3


def test_the_default_kv_budget_is_bounded_by_half_of_the_available_ram_and_8_gib(tmp_path: Path) -> None:
    assert resolved(read(tmp_path), ram=MIB)[1].kv_cache_ram_bytes == MIB // 2
    large = read(tmp_path, max_position_embeddings=2**30)
    assert resolved(large)[1].kv_cache_ram_bytes == 8 * 2**30


def test_the_default_kv_budget_never_falls_below_one_block(tmp_path: Path) -> None:
    config = read(tmp_path)
    assert resolved(config, ram=0)[1].kv_cache_ram_bytes == kv_bytes_for_tokens(config, "f16", 1)


def test_the_default_kv_budget_holds_the_states_of_convolutions_too(tmp_path: Path) -> None:
    config = read(tmp_path, "lfm2", full_attn_idxs=[2], conv_L_cache=3)
    states = 32 * conv_state_bytes(config)
    assert conv_state_bytes(config) == 2 * 3 * 2 * 64 * 4
    assert resolved(config)[1].kv_cache_ram_bytes == 4 * kv_bytes_for_tokens(config, "f16", 2048 + 64) + states
    assert resolved(config, ram=0)[1].kv_cache_ram_bytes == kv_bytes_for_tokens(config, "f16", 1) + states


def test_the_machine_is_measured_when_nobody_says_its_ram(tmp_path: Path) -> None:
    _, engine_config = resolve(entry(), read(tmp_path), num_threads=1)
    assert engine_config.kv_cache_ram_bytes > 0


def test_a_kv_budget_below_one_block_is_refused_with_what_is_needed(tmp_path: Path) -> None:
    config = read(tmp_path, num_hidden_layers=64, head_dim=256)  # 8 MiB a block in f16
    assert resolved(config, tier_config={"kv_cache_ram_mb": 8})[1].kv_cache_ram_bytes == 8 * MIB
    with pytest.raises(ConfigError, match=r"kv_cache_ram_mb is 7, must hold at least one block .* \(8 MiB\)"):
        resolved(config, tier_config={"kv_cache_ram_mb": 7})


def test_a_written_cache_window_fits_the_context_and_the_default_one_is_not_asked(tmp_path: Path) -> None:
    config = read(tmp_path, max_position_embeddings=512)
    resolved(config)  # window_size defaults to 1024
    resolved(config, cache={"window_size": 512})
    resolved(config, cache={"strategy": "fifo"})
    with pytest.raises(ConfigError, match=r"cache\.window_size is 513, must be at most the context window.* 512"):
        resolved(config, cache={"window_size": 513})


def test_without_a_word_there_is_one_tier_and_nothing_is_forgotten(tmp_path: Path) -> None:
    _, engine_config = resolved(read(tmp_path))
    assert (engine_config.ssd_path, engine_config.max_ssd_bytes, engine_config.hot_tokens) == (None, 0, None)
    assert not engine_config.has_cold_tier
    assert engine_config.cache == CacheOptions()


def test_a_cold_tier_has_a_directory_of_the_model_alone(tmp_path: Path) -> None:
    tiers = {"max_ssd_mb": 100, "ssd_path": "/var/cold", "hot_tokens": 128}
    _, engine_config = resolved(read(tmp_path), tier_config=tiers)
    assert engine_config.ssd_path == Path("/var/cold/tiny")
    assert (engine_config.max_ssd_bytes, engine_config.hot_tokens) == (100 * MIB, 128)
    assert engine_config.has_cold_tier


@pytest.mark.parametrize("off", [{"enable_tiering": False}, {"max_ssd_mb": 0}])
def test_a_tier_that_is_switched_off_leaves_nothing_behind(tmp_path: Path, off: dict[str, Any]) -> None:
    tiers = {"max_ssd_mb": 100, "ssd_path": "/var/cold", **off}
    _, engine_config = resolved(read(tmp_path), tier_config=tiers)
    assert (engine_config.ssd_path, engine_config.max_ssd_bytes) == (None, 0)


def test_a_cold_tier_holds_one_block_at_least_with_every_layer_aligned(tmp_path: Path) -> None:
    config = read(tmp_path, num_hidden_layers=64, head_dim=256)  # 8 MiB a block in f16
    tiers = {"ssd_path": "cold", "kv_cache_ram_mb": 100}
    assert resolved(config, tier_config={**tiers, "max_ssd_mb": 8})[1].max_ssd_bytes == 8 * MIB
    with pytest.raises(ConfigError, match=r"max_ssd_mb is 7, must hold at least one block .* \(8 MiB\)"):
        resolved(config, tier_config={**tiers, "max_ssd_mb": 7})
    narrow = read(tmp_path, num_key_value_heads=1, head_dim=8)
    assert kv_bytes_per_block(narrow, "f16", FULL) == 4 * 2048
    assert cold_bytes_per_block(narrow, "f16", FULL) == 4 * 4096


def test_a_gguf_file_is_not_quantised_again(tmp_path: Path) -> None:
    config = read(tmp_path)
    assert resolved(config, quantization="q4_k")[1].quantization == "q4_k"
    assert resolved(config)[1].quantization is None
    with pytest.raises(ConfigError, match="model tiny: quantization is q8_0, is for directories with safetensors"):
        resolved(replace(config, dtype="Q4_K_M"), quantization="q8_0")


def test_hot_tokens_make_a_block_at_least(tmp_path: Path) -> None:
    assert resolved(read(tmp_path), tier_config={"hot_tokens": 64})[1].hot_tokens == 64
    with pytest.raises(ConfigError, match=r"tier_config\.hot_tokens is 63, must be at least one block, 64 tokens"):
        resolved(read(tmp_path), tier_config={"hot_tokens": 63})


def test_the_workspace_is_made_for_the_longer_chunks_of_two_tiers(tmp_path: Path) -> None:
    config, one_tier = resolved(read(tmp_path))
    two_tiers = replace(one_tier, ssd_path=tmp_path, max_ssd_bytes=MIB)
    assert (one_tier.max_chunk_tokens, two_tiers.max_chunk_tokens) == (512, 2048)
    assert workspace_bytes(config, two_tiers) > workspace_bytes(config, one_tier)


@pytest.mark.parametrize(
    ("cache", "options"),
    [
        ({}, CacheOptions()),
        ({"window_size": 512, "keep_first": 64}, CacheOptions()),
        ({"strategy": "adaptive"}, CacheOptions(CacheStrategy.ADAPTIVE)),
        ({"strategy": "sliding_window"}, CacheOptions(CacheStrategy.SLIDING_WINDOW, 1024)),
        ({"strategy": "sliding_window", "window_size": 7}, CacheOptions(CacheStrategy.SLIDING_WINDOW, 7)),
        ({"strategy": "keep_first"}, CacheOptions(CacheStrategy.KEEP_FIRST, 1024, 256)),
        ({"strategy": "keep_first", "keep_first": 0}, CacheOptions(CacheStrategy.KEEP_FIRST, 1024, 0)),
        ({"strategy": "fifo"}, CacheOptions(CacheStrategy.FIFO)),
        ({"strategy": "fifo", "window_size": 1024}, CacheOptions(CacheStrategy.FIFO, 1024)),
    ],
)
def test_a_strategy_travels_with_the_sizes_it_uses(
    tmp_path: Path, cache: dict[str, Any], options: CacheOptions
) -> None:
    assert resolved(read(tmp_path), cache=cache)[1].cache == options


@pytest.mark.parametrize("strategy", ["sliding_window", "keep_first"])
def test_a_default_window_in_use_fits_the_context_too(tmp_path: Path, strategy: str) -> None:
    config = read(tmp_path, max_position_embeddings=512)
    with pytest.raises(ConfigError, match=r"model tiny: cache\.window_size is 1024, must be at most .* which is 512"):
        resolved(config, cache={"strategy": strategy})


def test_an_entry_that_was_not_checked_for_missing_features_is_checked_here(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model tiny: tier_config\.enable_distributed is true, which is not"):
        resolved(read(tmp_path), tier_config={"enable_distributed": True})


def test_weights_kv_and_workspace_must_fit_into_the_cap(tmp_path: Path) -> None:
    config, engine_config = resolved(read(tmp_path), tier_config={"kv_cache_ram_mb": 100, "max_ram_mb": 4000})
    room = 3900 * MIB - workspace_bytes(config, engine_config)
    check_memory(config, engine_config, room)
    with pytest.raises(ConfigError, match=r"max_ram_mb is 4000, 1 MiB less than .* weights \+ 100 MiB KV cache \+"):
        check_memory(config, engine_config, room + 1)


def test_prompts_that_wait_are_part_of_the_workspace(tmp_path: Path) -> None:
    config, engine_config = resolved(read(tmp_path))
    longer = replace(engine_config, max_waiting_tokens=engine_config.max_waiting_tokens + MIB)
    assert workspace_bytes(config, longer) == workspace_bytes(config, engine_config) + 18 * MIB
    plain, longer = replace(engine_config, max_draft_tokens=0), replace(longer, max_draft_tokens=0)
    assert workspace_bytes(config, longer) == workspace_bytes(config, plain) + 4 * MIB


def test_guesses_have_their_rows_of_logits_in_the_workspace(tmp_path: Path) -> None:
    config, engine_config = resolved(read(tmp_path))
    plain = replace(engine_config, max_draft_tokens=0)
    index_bytes = 14 * engine_config.waiting_token_limit
    logit_bytes = 4 * MAX_DRAFTED_ROWS * config.vocab_size
    assert workspace_bytes(config, engine_config) == workspace_bytes(config, plain) + index_bytes + logit_bytes


@pytest.mark.parametrize(
    ("section", "expected"),
    [({}, 15), ({"max_draft_tokens": 4}, 4), ({"max_draft_tokens": 0}, 0), ({"method": "none"}, 0)],
)
def test_how_many_tokens_are_guessed(tmp_path: Path, section: dict[str, Any], expected: int) -> None:
    assert resolved(read(tmp_path), speculative=section)[1].max_draft_tokens == expected


def test_prompts_that_fill_a_long_context_window_may_wait(tmp_path: Path) -> None:
    _, engine_config = resolved(read(tmp_path))
    assert replace(engine_config, context_window=10**6).waiting_token_limit == 4 * 10**6
    assert replace(engine_config, context_window=1).waiting_token_limit == engine_config.max_waiting_tokens


def test_without_a_cap_any_weights_fit(tmp_path: Path) -> None:
    config, engine_config = resolved(read(tmp_path))
    check_memory(config, engine_config, 2**50)


def test_limits_survive_the_channel(tmp_path: Path) -> None:
    tiers = {"max_ram_mb": 100, "max_ssd_mb": 10, "ssd_path": "cold", "hot_tokens": 64}
    _, engine_config = resolved(read(tmp_path), tier_config=tiers, cache={"strategy": "keep_first"})
    assert EngineConfig.from_plain(json.loads(json.dumps(engine_config.to_plain()))) == engine_config


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kv_dtype", "q4_0"),
        ("context_window", 0),
        ("kv_cache_ram_bytes", 0),
        ("num_threads", 0),
        ("max_num_seqs", 0),
        ("max_ssd_bytes", -1),
        ("max_ssd_bytes", 1),
        ("hot_tokens", 63),
        ("max_draft_tokens", -1),
        ("max_draft_tokens", 33),
    ],
)
def test_impossible_limits_are_refused(tmp_path: Path, field: str, value: Any) -> None:
    _, engine_config = resolved(read(tmp_path))
    with pytest.raises(ConfigError, match=field):
        replace(engine_config, **{field: value})
    with pytest.raises(ConfigError, match="max_num_waiting is -1"):
        replace(engine_config, max_num_waiting=-1)
    with pytest.raises(ConfigError, match="max_waiting_tokens is -1"):
        replace(engine_config, max_waiting_tokens=-1)
