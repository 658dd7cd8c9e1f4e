"""`Decoder`: the computation that all families share, a stack of layers between an embedding and an output head.

What makes a family is what its layers are built of; see `decoder_builder`. Knows no checkpoint and no configuration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from transom import kernels
from transom.layers.forward_batch import ForwardBatch
from transom.layers.linear import Embedding, Linear
from transom.layers.mlp import FeedForward
from transom.layers.norm import Norm
from transom.layers.rotary import NoRotaryEmbedding, RotaryEmbedding, Rotations

Floats = NDArray[np.float32]


class Mixer(Protocol):
    """What lets a token see others: attention, or a short convolution."""

    def forward(
        self, x: Floats, rotations: Rotations, batch: ForwardBatch, keep: NDArray[np.int32] | None = None
    ) -> Floats:
        """[T, hidden_size] -> the same, or only the rows `keep` of it."""
        ...


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """Mixer and feed-forward block, each with norms before and after, and beside a residual.

    What a block adds to the residual is added where the next norm reads the sum: one pass over both.
    """

    mixer_norm: Norm
    mixer: Mixer
    mixer_output_norm: Norm
    mlp_norm: Norm
    mlp: FeedForward
    mlp_output_norm: Norm
    residual_multiplier: float = 1.0
    """On what mixer and feed-forward block add."""

    def forward(
        self,
        hidden: Floats,
        update: Floats | None,
        rotations: Rotations,
        batch: ForwardBatch,
        keep: NDArray[np.int32] | None = None,
    ) -> tuple[Floats, Floats]:
        """The residual and what is still to be added to it, [T, hidden_size] each -> the same behind this layer.

        `hidden` is changed in place. With `keep` only those rows come out: the last layer's others are never used.
        """
        x = self.mixer_norm.forward(hidden) if update is None else self.mixer_norm.forward_sum(hidden, update)
        mixed = self.mixer.forward(x, rotations, batch, keep)
        if keep is not None:
            hidden = hidden[keep]
        x = self.mlp_norm.forward_sum(hidden, self._scaled(self.mixer_output_norm.forward(mixed)))
        return hidden, self._scaled(self.mlp_output_norm.forward(self.mlp.forward(x)))

    def _scaled(self, x: Floats) -> Floats:
        return x if self.residual_multiplier == 1.0 else x * np.float32(self.residual_multiplier)


@dataclass(frozen=True, slots=True)
class OutputHead:
    """Hidden states to logits."""

    norm: Norm
    weight: Linear  # [vocab_size, hidden_size]
    divisor: float = 1.0
    soft_cap: float | None = None
    """Logits become soft_cap * tanh(logit / soft_cap)."""

    def forward(self, hidden: Floats) -> Floats:
        """Normalised rows, [R, hidden_size] -> [R, vocab_size]."""
        logits = self.weight.forward(hidden)
        if self.divisor != 1.0:
            logits /= np.float32(self.divisor)
        if self.soft_cap is not None:
            kernels.soft_cap(logits, self.soft_cap)
        return logits


@dataclass(frozen=True, slots=True)
class Decoder:
    """Token ids to logits. Weights are read only; `forward` keeps no state outside the batch's cache."""

    embedding: Embedding
    embedding_multiplier: float
    rotaries: Sequence[RotaryEmbedding | NoRotaryEmbedding]
    """Layers name theirs by its index."""
    layers: Sequence[DecoderLayer]
    head: OutputHead

    def forward(self, batch: ForwardBatch) -> Floats:
        """Logits [R, vocab_size] of the batch's `logit_rows`."""
        return self.logits(self.hidden_states(batch))

    def logits(self, hidden: Floats) -> Floats:
        """[R, hidden_size] as `hidden_states` gives them -> [R, vocab_size]."""
        return self.head.forward(hidden)

    def hidden_states(self, batch: ForwardBatch) -> Floats:
        """Of the batch's `logit_rows`, behind the last norm: [R, hidden_size], what the head sees."""
        hidden = self.embedding.forward(batch.token_ids)
        if self.embedding_multiplier != 1.0:
            hidden *= np.float32(self.embedding_multiplier)
        rotations = [rotary.at(batch.positions) for rotary in self.rotaries]
        update = None
        for layer in self.layers[:-1]:
            hidden, update = layer.forward(hidden, update, rotations, batch)
        hidden, update = self.layers[-1].forward(hidden, update, rotations, batch, keep=batch.logit_rows)
        return self.head.norm.forward_sum(hidden, update)
