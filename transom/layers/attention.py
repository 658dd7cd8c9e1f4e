"""Grouped-query self-attention (Ainslie et al., 2023) with rotary positions.

Owns the projections around attention. How keys and values are kept is behind `ForwardBatch.cache`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transom.layers.forward_batch import AttentionSpec, ForwardBatch
from transom.layers.linear import Linear
from transom.layers.rotary import Rotation


@dataclass(frozen=True, slots=True)
class Attention:
    """One layer's attention; query, key and value are one fused product."""

    layer_index: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    spec: AttentionSpec
    qkv: Linear  # rows: all query heads, then key heads, then value heads
    output: Linear  # [hidden_size, num_attention_heads * head_dim]

    def attend(self, x: NDArray[np.float32], rotation: Rotation, batch: ForwardBatch) -> NDArray[np.float32]:
        """[T, hidden_size] -> the heads' values before the output product, [T, num_attention_heads * head_dim]."""
        qkv = self.qkv.forward(x).reshape(len(x), -1, self.head_dim)
        query_end = self.num_attention_heads
        key_end = query_end + self.num_key_value_heads
        rotation.apply(qkv[:, :key_end])
        query, key, value = qkv[:, :query_end], qkv[:, query_end:key_end], qkv[:, key_end:]
        heads = batch.cache.attend(self.layer_index, query, key, value, self.spec)
        return heads.reshape(len(x), -1)
