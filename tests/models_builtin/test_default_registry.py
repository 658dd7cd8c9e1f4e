"""The registry file that `make serve` uses when none is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.build_recall_model import DEFAULT_OUT
from transom.config.engine_config import MIB, check_memory, kv_bytes_for_tokens, resolve
from transom.config.model_config import ModelConfig
from transom.config.registry_config import ModelEntry, RegistryConfig

REGISTRY = RegistryConfig.load(DEFAULT_OUT.parent / "config.json")


def entry(model_id: str) -> ModelEntry:
    return next(entry for entry in REGISTRY.models if entry.id == model_id)


def weights_bytes(directory: Path) -> int:
    return (directory / "model.safetensors").stat().st_size


def test_three_models_are_served_from_the_start() -> None:
    assert [(entry.id, entry.load) for entry in REGISTRY.models] == [
        ("tolstoy", "at_start"),
        ("tolstoy-window", "at_start"),
        ("recall", "at_start"),
    ]


@pytest.mark.parametrize(("model_id", "context"), [("tolstoy", 8192), ("tolstoy-window", 8192), ("recall", 32768)])
def test_context_windows_are_the_models_own(model_id: str, context: int) -> None:
    assert ModelConfig.from_hf(entry(model_id).path).max_position_embeddings == context


def test_one_of_them_shows_a_sliding_attention_window() -> None:
    assert entry("tolstoy-window").sliding_window == 1024
    assert entry("tolstoy-window").path == entry("tolstoy").path


@pytest.mark.parametrize("model_id", [entry.id for entry in REGISTRY.models])
def test_budgets_hold_several_requests_that_fill_the_window_and_the_process(model_id: str) -> None:
    served = entry(model_id)
    model_config, engine_config = resolve(served, ModelConfig.from_hf(served.path), num_threads=2)
    chunk = engine_config.max_num_batched_tokens
    one_request = kv_bytes_for_tokens(model_config, engine_config.kv_dtype, model_config.max_position_embeddings, chunk)
    assert engine_config.kv_cache_ram_bytes >= 4 * one_request
    assert engine_config.max_ram_bytes is not None
    assert engine_config.max_ram_bytes < 1024 * MIB
    check_memory(model_config, engine_config, weights_bytes(served.path))
