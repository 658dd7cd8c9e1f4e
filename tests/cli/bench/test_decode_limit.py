"""What a token reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes import write_tiny_llama
from transom.cli.bench.decode_limit import LEAST_BYTES, DecodeBytes
from transom.config.kv_size import kv_bytes_per_token
from transom.config.model_config import LayerKind, ModelConfig
from transom.request import CacheOptions, CacheStrategy
from transom.weights.sources import open_weights

FULL = CacheOptions()


def test_an_embedding_that_is_no_head_is_not_read(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path)
    config, source = ModelConfig.from_hf(tmp_path), open_weights(tmp_path)
    assert not config.tie_word_embeddings
    read = DecodeBytes.of(config, "f16", source)
    assert read.weights == source.nbytes - source.info("model.embed_tokens.weight").nbytes
    assert read.at(100, FULL) == read.weights + 100 * kv_bytes_per_token(config, "f16")


def test_windows_of_layers_and_strategies_bound_what_is_read() -> None:
    kinds = {LayerKind.FULL_ATTENTION: 10, LayerKind.SLIDING_ATTENTION: 7}
    read = DecodeBytes(1000, kinds, attention_window=64)
    assert read.at(50, FULL) == 1000 + 50 * 17
    assert read.at(500, FULL) == 1000 + 500 * 10 + 64 * 7
    windowed = CacheOptions(CacheStrategy.SLIDING_WINDOW, window_size=100)
    assert read.at(500, windowed) == 1000 + 100 * 10 + 64 * 7


def test_what_caches_may_hold_has_no_limit() -> None:
    assert DecodeBytes(LEAST_BYTES - 1, {}, None).limit(0, FULL, 1e9) is None
    assert DecodeBytes(LEAST_BYTES, {}, None).limit(0, FULL, 1e9) == pytest.approx(1e9 / LEAST_BYTES)
