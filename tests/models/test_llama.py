"""The Llama architecture against a dense forward pass in NumPy float64, and what its checkpoints may look like."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from tests.fakes import write_tiny_llama
from tests.harness import Harness
from transom.config.model_config import ModelConfig
from transom.errors import UnsupportedModelError, WeightsError
from transom.models import ALIASES, ARCHITECTURES, build
from transom.weights.loader import WeightLoader
from transom.weights.safetensors import open_checkpoint

Array = NDArray[np.float64]
TOKENS = np.random.default_rng(5).integers(0, 259, 150).tolist()


class DenseLlama:
    """The textbook: whole sequence at once, no cache, float64."""

    def __init__(self, directory: Path, config: ModelConfig) -> None:
        self.weights = {n: w.astype(np.float64) for n, w in load_file(directory / "model.safetensors").items()}
        self.config = config

    def logits(self, tokens: list[int]) -> Array:
        hidden = self.weights["model.embed_tokens.weight"][tokens]
        for index in range(self.config.num_hidden_layers):
            prefix = f"model.layers.{index}"
            hidden = hidden + self.attention(self.norm(hidden, f"{prefix}.input_layernorm"), f"{prefix}.self_attn")
            hidden = hidden + self.mlp(self.norm(hidden, f"{prefix}.post_attention_layernorm"), f"{prefix}.mlp")
        return self.linear(self.norm(hidden, "model.norm"), "lm_head")

    def linear(self, x: Array, name: str) -> Array:
        product: Array = x @ self.weights[f"{name}.weight"].T
        return product

    def norm(self, x: Array, name: str) -> Array:
        normed: Array = x / np.sqrt((x * x).mean(axis=1, keepdims=True) + self.config.rms_norm_eps)
        scaled: Array = normed * self.weights[f"{name}.weight"]
        return scaled

    def mlp(self, x: Array, name: str) -> Array:
        gate = self.linear(x, f"{name}.gate_proj")
        return self.linear(gate / (1 + np.exp(-gate)) * self.linear(x, f"{name}.up_proj"), f"{name}.down_proj")

    def attention(self, x: Array, name: str) -> Array:
        config = self.config
        query, key, value = (
            self.linear(x, f"{name}.{part}_proj").reshape(len(x), -1, config.head_dim) for part in "qkv"
        )
        group = config.num_attention_heads // config.num_key_value_heads
        key, value = np.repeat(self.rotated(key), group, axis=1), np.repeat(value, group, axis=1)
        scores = np.einsum("qhd,khd->hqk", self.rotated(query), key) / np.sqrt(config.head_dim)
        distance = np.arange(len(x))[:, None] - np.arange(len(x))
        visible = (distance >= 0) & (distance < (config.sliding_window or len(x)))
        weights = np.where(visible, np.exp(scores - scores.max(axis=2, keepdims=True)), 0)
        weights /= weights.sum(axis=2, keepdims=True)
        return self.linear(np.einsum("hqk,khd->qhd", weights, value).reshape(len(x), -1), f"{name}.o_proj")

    def rotated(self, x: Array) -> Array:
        half = self.config.head_dim // 2
        frequencies = self.config.rope.rope_theta ** (-np.arange(half) / half)
        angles = (np.arange(len(x))[:, None] * frequencies)[:, None]
        left, right = x[..., :half], x[..., half:]
        cos, sin = np.cos(angles), np.sin(angles)
        return np.concatenate([left * cos - right * sin, right * cos + left * sin], axis=2)


@pytest.mark.parametrize("window", [None, 37])
def test_logits_equal_a_dense_forward_pass(tmp_path: Path, window: int | None) -> None:
    write_tiny_llama(tmp_path, sliding_window=window)
    harness = Harness(tmp_path)
    expected = DenseLlama(tmp_path, harness.model_config).logits(TOKENS)
    computed = harness.logits(TOKENS, chunk=40)
    assert np.abs(computed - expected).max() < 1e-3
    assert (computed.argmax(axis=1) == expected.argmax(axis=1)).all()


def rewrite(directory: Path, **changes: NDArray[Any] | None) -> None:
    """Adds, replaces or (None) removes tensors of the checkpoint."""
    tensors = load_file(directory / "model.safetensors") | changes
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, directory / "model.safetensors")


def build_tied(directory: Path, *, tie: bool = True) -> None:
    config = replace(ModelConfig.from_hf(directory), tie_word_embeddings=tie)
    build(config, WeightLoader(open_checkpoint(directory)))


@pytest.mark.parametrize("missing", ["lm_head.weight", "model.embed_tokens.weight"])
def test_tied_embeddings_may_lie_under_either_name(tmp_path: Path, missing: str) -> None:
    write_tiny_llama(tmp_path)
    rewrite(tmp_path, **{missing: None})
    build_tied(tmp_path)
    with pytest.raises(WeightsError, match=missing):
        build_tied(tmp_path, tie=False)


def test_a_tensor_that_the_model_does_not_have_is_refused_by_name(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path)
    rewrite(tmp_path, **{"model.layers.0.self_attn.q_norm.weight": np.ones(12, np.float32)})
    with pytest.raises(WeightsError, match="q_norm"):
        build_tied(tmp_path, tie=False)


def test_a_part_of_a_fused_product_with_a_wrong_shape_is_refused_by_name(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path)
    rewrite(tmp_path, **{"model.layers.1.self_attn.k_proj.weight": np.ones((25, 48), np.float32)})
    with pytest.raises(WeightsError, match=r"layers\.1\.self_attn\.k_proj"):
        build_tied(tmp_path, tie=False)


def test_every_alias_leads_to_an_architecture() -> None:
    assert set(ALIASES.values()) <= set(ARCHITECTURES)
    assert not set(ALIASES) & set(ARCHITECTURES)


def test_an_unknown_model_type_is_refused_by_name(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path)
    config = replace(ModelConfig.from_hf(tmp_path), model_type="martian")
    with pytest.raises(UnsupportedModelError, match="martian"):
        build(config, WeightLoader(open_checkpoint(tmp_path)))
