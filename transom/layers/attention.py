"""Grouped-query self-attention (Ainslie et al., 2023) with rotary positions.

Owns the projections around attention and the norms of queries and keys. How keys and values are kept is behind
`ForwardBatch.cache`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from transom import kernels
from transom.layers.forward_batch import AttentionSpec, ForwardBatch
from transom.layers.linear import Linear
from transom.layers.rotary import Rotations

Floats = NDArray[np.float32]


class HeadsNorm(Protocol):
    """What may be done to queries or keys before attention."""

    def apply(self, heads: Floats) -> None:
        """Changes [T, heads, head_dim] in place; rows may be strided."""
        ...


@dataclass(frozen=True, slots=True)
class NoHeadsNorm:
    """Leaves them alone."""

    def apply(self, heads: Floats) -> None:
        """Does nothing."""


@dataclass(frozen=True, slots=True)
class PerHeadNorm:
    """Root mean square norm of every head by itself (Henry et al., 2020)."""

    weight: Floats  # [head_dim]
    eps: float

    def apply(self, heads: Floats) -> None:
        """In place."""
        kernels.rms_norm_heads(heads, self.weight, self.eps)


@dataclass(frozen=True, slots=True)
class WholeProjectionNorm:
    """Root mean square norm over all heads of a token together (OLMo 2)."""

    weight: Floats  # [heads * head_dim]
    eps: float

    def apply(self, heads: Floats) -> None:
        """In place."""
        flat = np.ascontiguousarray(heads.reshape(len(heads), -1))
        heads[...] = kernels.rms_norm(flat, self.weight, self.eps).reshape(heads.shape)


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
    rotation_index: int = 0
    """Which of the pass's rotations."""
    query_norm: HeadsNorm = NoHeadsNorm()
    key_norm: HeadsNorm = NoHeadsNorm()
    normalizes_rotated: bool = False
    """The norms come after the rotation, not before."""

    def forward(
        self, x: Floats, rotations: Rotations, batch: ForwardBatch, keep: NDArray[np.int32] | None = None
    ) -> Floats:
        """[T, hidden_size] -> the same, or only the rows `keep` of it: keys and values are stored for all."""
        qkv = self.qkv.forward(x).reshape(len(x), -1, self.head_dim)
        query_end = self.num_attention_heads
        key_end = query_end + self.num_key_value_heads
        query, key, value = qkv[:, :query_end], qkv[:, query_end:key_end], qkv[:, key_end:]
        if not self.normalizes_rotated:
            self._normalize(query, key)
        rotations[self.rotation_index].apply(qkv[:, :key_end])
        if self.normalizes_rotated:
            self._normalize(query, key)
        heads = batch.cache.attend(self.layer_index, query, key, value, self.spec).reshape(len(x), -1)
        return self.output.forward(heads if keep is None else heads[keep])

    def _normalize(self, query: Floats, key: Floats) -> None:
        self.query_norm.apply(query)
        self.key_norm.apply(key)
