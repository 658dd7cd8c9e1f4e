"""The arithmetic of keys and values."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.config.directories import read
from transom.config.kv_size import blocks_for_tokens, kv_bytes_for_tokens, kv_bytes_per_block, kv_bytes_per_token
from transom.config.model_config import LayerKind, ModelConfig
from transom.kernels import KVLayout

FULL, SLIDING = LayerKind.FULL_ATTENTION, LayerKind.SLIDING_ATTENTION


@pytest.fixture
def config(tmp_path: Path) -> ModelConfig:
    """Four layers, two of them sliding by 100; 2 KV heads of 16."""
    kinds = [FULL, SLIDING, SLIDING, FULL]
    return read(tmp_path, layer_types=[str(kind) for kind in kinds], sliding_window=100)


def test_the_often_quoted_seven_billion_example_takes_4096_mib_in_f32(tmp_path: Path) -> None:
    config = read(
        tmp_path, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=32, head_dim=128, hidden_size=4096
    )
    assert kv_bytes_for_tokens(config, "f32", 4096) == 4096 * 2**20
    assert kv_bytes_for_tokens(config, "f16", 4096) == 2048 * 2**20


def test_a_token_costs_a_key_and_a_value_in_every_layer(config: ModelConfig) -> None:
    assert kv_bytes_per_token(config, "f16") == 4 * 2 * 2 * 16 * 2
    assert kv_bytes_per_token(config, "f32") == 2 * kv_bytes_per_token(config, "f16")


@pytest.mark.parametrize("kv_dtype", ["f32", "f16", "q8_0"])
@pytest.mark.parametrize("head_dim", [2, 16, 32, 34, 64, 80, 128])
def test_a_block_takes_the_bytes_of_the_kernels_slots(tmp_path: Path, kv_dtype: Literal["f32"], head_dim: int) -> None:
    config = read(tmp_path, head_dim=head_dim, num_key_value_heads=2)
    slot_bytes = KVLayout(2, head_dim, kv_dtype).slot_bytes
    assert kv_bytes_per_block(config, kv_dtype, FULL) == config.num_hidden_layers * slot_bytes
    assert 64 * kv_bytes_per_token(config, kv_dtype) == config.num_hidden_layers * slot_bytes


def test_q8_0_has_a_byte_for_each_channel_and_two_for_each_group_of_32(tmp_path: Path) -> None:
    config = read(tmp_path, head_dim=80, num_key_value_heads=2, num_hidden_layers=3)
    assert kv_bytes_per_token(config, "q8_0") == 3 * 2 * 2 * (80 + 2 * 3)


def test_a_block_holds_64_tokens_of_one_kind(config: ModelConfig) -> None:
    assert kv_bytes_per_block(config, "f32", FULL) == 64 * 2 * 2 * 2 * 16 * 4
    assert kv_bytes_per_block(config, "f32", LayerKind.SHORT_CONV) == 0


@pytest.mark.parametrize(
    ("tokens", "full", "sliding"),
    [(0, 0, 0), (1, 1, 1), (64, 1, 1), (65, 2, 2), (192, 3, 3), (193, 4, 3), (2048, 32, 3)],
)
def test_a_sliding_layer_stops_growing_at_its_window_and_one_block(
    config: ModelConfig, tokens: int, full: int, sliding: int
) -> None:
    assert blocks_for_tokens(config, FULL, tokens) == full
    assert blocks_for_tokens(config, SLIDING, tokens) == sliding


def test_a_chunk_comes_on_top_while_it_is_computed(config: ModelConfig) -> None:
    assert blocks_for_tokens(config, SLIDING, 2048, chunk=512) == 11
    assert blocks_for_tokens(config, SLIDING, 300, chunk=512) == 5


@given(position=st.integers(1, 2000), window=st.integers(1, 300), chunk=st.integers(1, 200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_the_blocks_hold_every_position_a_chunk_can_see(tmp_path: Path, position: int, window: int, chunk: int) -> None:
    config = read(tmp_path, "mistral", sliding_window=window)
    end = position + chunk
    first_visible = max(0, position - window + 1)
    blocks_in_use = (end - 1) // 64 - first_visible // 64 + 1
    assert blocks_in_use <= blocks_for_tokens(config, SLIDING, end, chunk)
