"""Metadata of a GGUF file to a `ModelConfig`: every key, its default, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from transom.config.gguf_config import gguf_generation_defaults, gguf_model_config
from transom.config.gguf_model import GgufModel
from transom.config.model_config import GenerationDefaults, LayerKind, ModelConfig
from transom.config.rope_config import RopeConfig
from transom.errors import ConfigError, UnsupportedModelError

METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.block_count": 2,
    "llama.context_length": 4096,
    "llama.embedding_length": 64,
    "llama.feed_forward_length": 128,
    "llama.attention.head_count": 4,
    "llama.attention.layer_norm_rms_epsilon": float(np.float32(1e-5)),
}
SHAPES: dict[str, tuple[int, ...]] = {"token_embd.weight": (100, 64), "output.weight": (100, 64)}


def described(
    changes: dict[str, Any] | None = None, shapes: dict[str, tuple[int, ...]] | None = None, **more: Any
) -> GgufModel:
    """`changes` are keys without the architecture's prefix unless they have a known one; None removes a key."""
    metadata = dict(METADATA)
    for key, value in (changes or {}).items():
        metadata[key if key.startswith(("general.", "tokenizer.", "llama.")) else f"llama.{key}"] = value
    kept = {key: value for key, value in metadata.items() if value is not None}
    return GgufModel("m.gguf", kept, SHAPES if shapes is None else shapes, "Q4_K_M", **more)


def read(changes: dict[str, Any] | None = None, **more: Any) -> ModelConfig:
    return gguf_model_config(described(changes, **more))


def refused(changes: dict[str, Any], *words: str, error: type[ConfigError] = ConfigError, **more: Any) -> None:
    with pytest.raises(error) as caught:
        read(changes, **more)
    message = str(caught.value)
    assert message.startswith("m.gguf: ") and "\n" not in message
    for word in words:
        assert word in message


def test_a_file_that_says_the_least_gets_every_default() -> None:
    assert read() == ModelConfig(
        model_type="llama",
        vocab_size=100,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=16,
        max_position_embeddings=4096,
        layer_types=(LayerKind.FULL_ATTENTION,) * 2,
        sliding_window=None,
        hidden_act="silu",
        rms_norm_eps=1e-5,
        rope=RopeConfig("default", 10_000.0, 16),
        tie_word_embeddings=False,
        attention_bias=False,
        attention_output_bias=False,
        mlp_bias=False,
        bos_token_id=None,
        eos_token_ids=(),
        pad_token_id=None,
        dtype="Q4_K_M",
    )


@pytest.mark.parametrize("key", [key for key in METADATA if key != "llama.attention.layer_norm_rms_epsilon"])
def test_a_missing_key_is_named(key: str) -> None:
    refused({key: None}, key, "is missing")


def test_every_architecture_that_is_not_implemented_is_refused_by_name() -> None:
    refused(
        {"general.architecture": "mamba"}, "'mamba' is not supported; supported: gemma2", error=UnsupportedModelError
    )
    refused({"general.architecture": 7}, "general.architecture is 7, must be a string")


@pytest.mark.parametrize(
    ("key", "value", "feature"),
    [
        ("expert_used_count", 2, "mixture of experts"),
        ("expert_shared_count", 1, "experts that see every token"),
        ("attn_logit_softcapping", 50.0, "soft-capped attention scores"),
        ("attention.causal", False, "attention to later tokens"),
        ("attention.sliding_window_pattern", np.array([True, False]), "attention windows"),
        ("logit_scale", 0.5, "scaled logits"),
        ("rope.scaling.alpha", 50.0, "a base stretched"),
        ("rope.scaling.type", "longrope", "none, linear, yarn"),
        ("attention.value_length", 8, "values of another length"),
        ("attention.head_count_kv", np.array([4, 2]), "layers of different shape"),
        ("attention.head_count", np.array([], np.uint32), "layers of different shape"),
        ("rope.scaling.attn_factor", 1.2, "without yarn"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(key: str, value: Any, feature: str) -> None:
    refused({key: value}, f"llama.{key}", "not supported", feature, error=UnsupportedModelError)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("expert_count", 0),
        ("attention.causal", True),
        ("logit_scale", 1.0),
        ("attention.head_count_kv", np.array([4, 4])),
    ],
)
def test_what_changes_nothing_is_accepted(key: str, value: Any) -> None:
    assert read({key: value}) == read()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("block_count", 0),
        ("block_count", 2**31),
        ("block_count", "2"),
        ("block_count", True),
        ("context_length", 2**32),
        ("attention.head_count", 7),
        ("attention.head_count_kv", 3),
        ("attention.layer_norm_rms_epsilon", 0.0),
        ("attention.layer_norm_rms_epsilon", 1e-40),
        ("attention.layer_norm_rms_epsilon", float("nan")),
        ("attention.layer_norm_rms_epsilon", float("inf")),
        ("rope.freq_base", 1e39),
        ("rope.freq_base", -1.0),
        ("attention.key_length", 1),
        ("rope.dimension_count", 18),
        ("rope.dimension_count", 7),
        ("rope.dimension_count", 8),
        ("rope.scaling.factor", -1.0),
        ("rope.scaling.factor", 1e-300),
        ("rope.scaling.factor", 1e300),
        ("feed_forward_length", 2**40),
        ("attention.sliding_window", -1),
        ("tokenizer.ggml.bos_token_id", "x"),
    ],
)
def test_values_that_make_no_sense_are_named_in_one_line(key: str, value: Any) -> None:
    refused({key: value}, key if key != "attention.head_count" else "embedding_length")


@pytest.mark.parametrize("shape", [None, (100,), (0, 64), (2**25, 64)])
def test_the_vocabulary_is_the_embeddings_rows(shape: tuple[int, ...] | None) -> None:
    others: dict[str, tuple[int, ...]] = {"output.weight": (100, 64)}
    refused({}, "token_embd.weight", shapes=others if shape is None else {"token_embd.weight": shape})
    assert read({}, shapes={"token_embd.weight": (7, 64)}).vocab_size == 7


def test_a_file_of_a_vocabulary_alone_is_said_to_be_one() -> None:
    refused({}, "holds no weights, only a vocabulary", shapes={})


def test_biases_and_tied_embeddings_are_what_the_file_holds() -> None:
    shapes = {"token_embd.weight": (100, 64), "blk.0.attn_q.bias": (64,), "blk.0.ffn_down.bias": (64,)}
    config = read({}, shapes=shapes)
    assert (config.tie_word_embeddings, config.attention_bias, config.mlp_bias) == (True, True, True)
    assert not config.attention_output_bias


def test_an_attention_window_holds_for_all_layers() -> None:
    config = read({"attention.sliding_window": 1024})
    assert config.sliding_window == 1024 and set(config.layer_types) == {LayerKind.SLIDING_ATTENTION}
    assert read({"attention.sliding_window": 0}) == read()


def test_linear_scaling_is_read_in_both_spellings() -> None:
    expected = RopeConfig("linear", 10_000.0, 16, factor=4.0)
    assert read({"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}).rope == expected
    assert read({"rope.scaling.factor": 4.0}).rope == expected
    assert read({"rope.scale_linear": 4.0}).rope == expected
    assert read({"rope.scaling.type": "none", "rope.scaling.factor": 4.0}).rope == read().rope
    assert read({"rope.scaling.factor": 0.0}).rope == read({"rope.scaling.factor": 1.0}).rope == read().rope


def test_yarn_is_read_with_its_defaults() -> None:
    yarn = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 1024}
    expected = RopeConfig("yarn", 10_000.0, 16, 4.0, 1024, beta_fast=32.0, beta_slow=1.0)
    assert read(yarn).rope == expected
    own = read({**yarn, "rope.scaling.yarn_attn_factor": 0.5, "rope.scaling.yarn_beta_fast": 16.0}).rope
    assert own.beta_fast == 16.0
    assert own.attention_factor == pytest.approx(0.5 * (1 + 0.1 * np.log(4.0)))
    refused({**yarn, "rope.scaling.yarn_ext_factor": 0.5}, "yarn_ext_factor", error=UnsupportedModelError)


def test_frequency_factors_are_kept_for_every_pair_of_channels() -> None:
    factors = (1.0, 1.0, 1.5, 2.0, 4.0, 8.0, 8.0, 8.0)
    assert read(rope_factors=factors).rope == RopeConfig("factors", 10_000.0, 16, frequency_factors=factors)
    for wrong in (factors[1:], (*factors[1:], 0.0), (*factors[1:], float("nan"))):
        refused({}, "rope_freqs.weight", rope_factors=wrong)
    both = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}
    refused(both, "rope_freqs.weight", rope_factors=factors, error=UnsupportedModelError)


def test_all_ends_are_found_by_name_and_by_the_text_of_control_tokens() -> None:
    tokens = [f"t{index}" for index in range(100)]
    tokens[90], tokens[91], tokens[92] = "<|eot_id|>", "<|im_end|>", "<|end|>"
    types = np.ones(100, np.int32)
    types[90:92] = 3
    names = {"bos": 1, "eos": 2, "eot": 91, "padding": 4}
    keys: dict[str, Any] = {f"tokenizer.ggml.{name}_token_id": token for name, token in names.items()}
    config = read({**keys, "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types})
    assert (config.bos_token_id, config.eos_token_ids, config.pad_token_id) == (1, (2, 91, 90), 4)


def test_tokens_that_are_no_texts_end_nothing() -> None:
    types = np.full(3, 3, np.int32)
    keys = {"tokenizer.ggml.tokens": [np.arange(2), "</s>", []], "tokenizer.ggml.token_type": types}
    assert read(keys).eos_token_ids == (1,)


def test_features_that_are_not_known_are_refused_in_a_short_message() -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        read({"attention.scale": ["x" * 1000] * 100})
    assert len(str(caught.value)) < 300


def test_ids_outside_the_vocabulary_mean_that_there_is_no_such_token() -> None:
    config = read({"tokenizer.ggml.bos_token_id": 100, "tokenizer.ggml.eos_token_id": 2**32 - 1})
    assert (config.bos_token_id, config.eos_token_ids) == (None, ())


def test_numbers_of_32_bits_are_read_as_the_decimals_they_were() -> None:
    assert read({"attention.layer_norm_rms_epsilon": float(np.float32(1e-6))}).rms_norm_eps == 1e-6
    assert read({"rope.freq_base": 1_000_000.0}).rope.rope_theta == 1_000_000.0


def test_recommended_sampling_is_read() -> None:
    assert gguf_generation_defaults(described()) == GenerationDefaults()
    keys = {
        "temp": float(np.float32(0.7)),
        "top_k": 20,
        "top_p": float(np.float32(0.8)),
        "min_p": 0.0,
        "penalty_repeat": 1.5,
    }
    changes = {f"general.sampling.{key}": value for key, value in keys.items()}
    assert gguf_generation_defaults(described(changes)) == GenerationDefaults(0.7, 0.8, 20, 0.0, 1.5)
    with pytest.raises(ConfigError, match=r"general\.sampling\.temp is -1\.0, must be a number from 0"):
        gguf_generation_defaults(described({"general.sampling.temp": -1.0}))


def test_a_config_with_factors_survives_the_channel() -> None:
    config = read(rope_factors=(1.0,) * 8)
    assert ModelConfig.from_plain(config.to_plain()) == config
