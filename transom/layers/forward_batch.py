"""The explicit input of one forward pass. Built by the model runner, read by layers, changed by nobody.

T rows (tokens) of S sequences lie one behind the other; a sequence's rows are consecutive positions. Layers see rows;
only attention needs to know which sequence a row belongs to, and it asks `LayerCache`, behind which lie paging, tiers
and strategies. Knows no scheduler, no cache internals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """What attention computes in one layer, apart from the data."""

    scale: float
    """Factor on the scores, usually head_dim ** -0.5."""
    window: int | None = None
    """Attention window: position p sees p - window + 1 .. p. None = every earlier position."""
    soft_cap: float | None = None
    """Scores become soft_cap * tanh(score / soft_cap) before the mask."""


class LayerCache(Protocol):
    """The token mixers' door to what is kept of earlier tokens, for one forward pass."""

    def attend(
        self,
        layer_index: int,
        query: NDArray[np.float32],  # [T, num_attention_heads, head_dim], rotated
        key: NDArray[np.float32],  # [T, num_key_value_heads, head_dim], rotated
        value: NDArray[np.float32],  # [T, num_key_value_heads, head_dim]
        spec: AttentionSpec,
    ) -> NDArray[np.float32]:
        """Stores the rows' keys and values, then attends causally over each row's whole sequence.

        Returns [T, num_attention_heads, head_dim], a fresh array. Called once per attention layer and pass, in layer
        order. Blocks until done.
        """
        ...

    def convolve(
        self,
        layer_index: int,
        x: NDArray[np.float32],  # [T, hidden_size]
        weight: NDArray[np.float32],  # [taps, hidden_size], oldest first
        bias: NDArray[np.float32] | None,  # [hidden_size]
    ) -> NDArray[np.float32]:
        """Convolves every channel causally over each row's whole sequence, and remembers what later rows will see.

        Returns [T, hidden_size], a fresh array. Called once per convolution layer and pass. Blocks until done.
        """
        ...


@dataclass(frozen=True, slots=True)
class ForwardBatch:
    """One forward pass over T tokens."""

    token_ids: NDArray[np.int32]  # [T]
    positions: NDArray[np.int32]  # [T] absolute positions in their sequences
    sequence_starts: NDArray[np.int32]  # [S + 1] rows of sequence s are sequence_starts[s] .. sequence_starts[s + 1]
    logit_rows: NDArray[np.int32]  # [R] rows whose logits or last hidden states are wanted, ascending
    cache: LayerCache
