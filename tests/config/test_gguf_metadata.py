"""An architecture written as GGUF metadata is read back as the same architecture."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import write_tiny_llama
from tests.golden_models import read_golden
from transom.config.gguf_config import gguf_generation_defaults, gguf_model_config
from transom.config.gguf_metadata import gguf_metadata
from transom.config.gguf_model import GgufModel
from transom.config.model_config import GenerationDefaults, ModelConfig
from transom.errors import UnsupportedModelError
from transom.layers.rotary import RotaryEmbedding, frequency_factors

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}
LLAMA_3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 512,
}


def config_of(directory: Path, **settings: Any) -> ModelConfig:
    write_tiny_llama(directory)
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    return ModelConfig.from_hf(directory)


def read_back(config: ModelConfig, defaults: GenerationDefaults | None = None) -> GgufModel:
    metadata: dict[str, Any] = gguf_metadata(config, defaults or GenerationDefaults())
    metadata |= {"tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2}
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (config.vocab_size, config.hidden_size),
        "output.weight": (1, 1),
    }
    if config.attention_bias:
        shapes["blk.0.attn_q.bias"] = (1,)
    factors = frequency_factors(config.rope)
    return GgufModel("model.gguf", metadata, shapes, "F32", () if factors is None else tuple(factors.tolist()))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"rms_norm_eps": 1e-6, "rope_theta": 1e6},
        {"rope_scaling": {"rope_type": "linear", "factor": 2.5}},
        {"rope_scaling": YARN},
        {"rope_scaling": {**YARN, "beta_fast": 16.0, "beta_slow": 2.0}},
        {"model_type": "mistral", "sliding_window": 100},
        {"model_type": "qwen2"},
    ],
)
def test_the_same_architecture_is_read_back(tmp_path: Path, settings: dict[str, Any]) -> None:
    config = config_of(tmp_path, **settings)
    model_type = "llama" if config.model_type == "mistral" else config.model_type
    assert gguf_model_config(read_back(config)) == replace(config, model_type=model_type, dtype="F32")


@pytest.mark.parametrize(
    "rope",
    [
        LLAMA_3,
        {"rope_type": "dynamic", "factor": 2.0},
        {**YARN, "attention_factor": 1.5},
        {**YARN, "mscale": 0.707, "mscale_all_dim": 0.5},
    ],
)
def test_a_rope_that_is_said_otherwise_turns_by_the_same_angles(tmp_path: Path, rope: dict[str, Any]) -> None:
    config = config_of(tmp_path, rope_scaling=rope)
    context_window = config.max_position_embeddings
    expected = RotaryEmbedding.from_config(config.rope, context_window)
    found = RotaryEmbedding.from_config(gguf_model_config(read_back(config)).rope, context_window)
    assert found.inverse_frequencies == pytest.approx(expected.inverse_frequencies, rel=3e-7)
    assert found.attention_factor == pytest.approx(expected.attention_factor, rel=1e-6)


def test_sampling_settings_travel(tmp_path: Path) -> None:
    defaults = GenerationDefaults(temperature=0.7, top_p=0.95, top_k=20, min_p=0.05, repetition_penalty=1.1)
    assert gguf_generation_defaults(read_back(config_of(tmp_path), defaults)) == defaults
    assert gguf_generation_defaults(read_back(config_of(tmp_path))) == GenerationDefaults()


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"rope_scaling": {**YARN, "truncate": False}}, "rope_scaling.truncate"),
        (
            {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1},
            "layer_types",
        ),
    ],
)
def test_what_the_format_cannot_say_is_refused_by_name(tmp_path: Path, settings: dict[str, Any], what: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"{what} cannot be written into a GGUF file"):
        gguf_metadata(config_of(tmp_path, **settings), GenerationDefaults())


def test_a_head_that_is_rotated_in_part_is_refused_where_readers_rotate_all_of_it(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    half = replace(config, rope=replace(config.rope, rotary_dim=config.head_dim // 2))
    with pytest.raises(UnsupportedModelError, match="partial_rotary_factor cannot be written into a GGUF file"):
        gguf_metadata(half, GenerationDefaults())


def test_a_family_without_a_name_is_refused(tmp_path: Path) -> None:
    config = replace(config_of(tmp_path), model_type="other")
    with pytest.raises(UnsupportedModelError, match="model_type other cannot be written"):
        gguf_metadata(config, GenerationDefaults())


@pytest.mark.parametrize(
    ("model_type", "what"),
    [
        ("gemma2", "scaling.attention_multiplier"),
        ("gemma3_text", "layer_types"),
        ("lfm2", "short_conv.conv_bias"),
        ("qwen2", "layer_types"),
        ("qwen3_moe", "experts.norm_topk_prob"),
        ("smollm3", "nope_layers"),
    ],
)
def test_what_readers_would_take_for_something_else_is_refused_by_name(
    tmp_path: Path, model_type: str, what: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(read_golden(model_type).config))
    with pytest.raises(UnsupportedModelError, match=f"^{what} cannot be written into a GGUF file"):
        gguf_metadata(ModelConfig.from_hf(tmp_path), GenerationDefaults())
