"""A Llama forward pass in plain NumPy, for checkpoints of one attention head and without MLP, as `recall` is.

Independent of the kernels on purpose: it says what the checkpoint means. Positions are given, not counted, so that a
short text can be spread over a long context.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


def read_safetensors(path: Path) -> dict[str, Array]:
    """All tensors of an f32 file."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header: dict[str, Any] = json.loads(content[8:start])
    del header["__metadata__"]
    tensors = {}
    for name, about in header.items():
        begin, end = (start + offset for offset in about["data_offsets"])
        tensors[name] = np.frombuffer(content[begin:end], np.float32).reshape(about["shape"])
    return tensors


@dataclass(frozen=True, slots=True)
class NumpyLlama:
    """The model in memory."""

    config: dict[str, Any]
    tensors: dict[str, Array]

    @classmethod
    def from_directory(cls, directory: Path) -> NumpyLlama:
        config = json.loads((directory / "config.json").read_text())
        return cls(config, read_safetensors(directory / "model.safetensors"))

    def logits(self, token_ids: Sequence[int], positions: Array, kv_dtype: str = "float32") -> Array:
        """Logits `[vocab_size]` after the last token; keys and values pass through `kv_dtype`."""
        x = self.tensors["model.embed_tokens.weight"][list(token_ids)]
        for layer in range(self.config["num_hidden_layers"]):
            x = x + self._attention(f"model.layers.{layer}.", x, positions, kv_dtype)
        logits: Array = self.tensors["lm_head.weight"] @ self._norm(x[-1:], "model.norm.weight")[0]
        return logits

    def _attention(self, layer: str, x: Array, positions: Array, kv_dtype: str) -> Array:
        normed = self._norm(x, f"{layer}input_layernorm.weight")
        query, key, value = (normed @ self.tensors[f"{layer}self_attn.{name}_proj.weight"].T for name in "qkv")
        key = self._rotate(key, positions).astype(kv_dtype).astype(np.float32)
        value = value.astype(kv_dtype).astype(np.float32)
        scores = self._rotate(query, positions) @ key.T / np.float32(math.sqrt(self.config["head_dim"]))
        scores[np.triu_indices(len(x), 1)] = -np.inf
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        attended: Array = weights @ value @ self.tensors[f"{layer}self_attn.o_proj.weight"].T
        return attended

    def _norm(self, x: Array, weight: str) -> Array:
        mean_square = np.mean(x * x, axis=1, keepdims=True)
        normed: Array = x / np.sqrt(mean_square + np.float32(self.config["rms_norm_eps"])) * self.tensors[weight]
        return normed

    def _rotate(self, x: Array, positions: Array) -> Array:
        half = self.config["head_dim"] // 2
        frequencies = (self.config["rope_theta"] ** (-np.arange(half) / half)).astype(np.float32)
        angles = positions[:, None] * frequencies
        cos, sin, left, right = np.cos(angles), np.sin(angles), x[:, :half], x[:, half:]
        return np.concatenate([left * cos - right * sin, right * cos + left * sin], axis=1)
