"""Llama, and every family that computes the same with other settings (Mistral, Qwen2).

Settings that make the difference: attention window per layer, biases, tied embeddings, head_dim, rope type. Source:
Touvron et al., 2023; Jiang et al., 2023 (Mistral); Yang et al., 2024 (Qwen2); names as in Hugging Face checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transom import kernels
from transom.config.model_config import LayerKind, ModelConfig
from transom.layers.attention import Attention
from transom.layers.forward_batch import AttentionSpec, ForwardBatch
from transom.layers.linear import Embedding, Linear
from transom.layers.mlp import GatedMLP
from transom.layers.norm import RMSNorm
from transom.layers.rotary import RotaryEmbedding, Rotation
from transom.weights.loader import WeightLoader

_EMBEDDING = "model.embed_tokens"
_HEAD = "lm_head"


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """Attention and feed-forward, each behind a norm and beside a residual."""

    attention_norm: RMSNorm
    attention: Attention
    mlp_norm: RMSNorm
    mlp: GatedMLP

    def forward(
        self,
        hidden: NDArray[np.float32],
        rotation: Rotation,
        batch: ForwardBatch,
        keep: NDArray[np.int32] | None = None,
    ) -> NDArray[np.float32]:
        """[T, hidden_size] -> the same, or only the rows `keep` of it: the last layer's other rows are never used."""
        heads = self.attention.attend(self.attention_norm.forward(hidden), rotation, batch)
        if keep is not None:
            hidden, heads = hidden[keep], heads[keep]
        hidden = hidden + self.attention.output.forward(heads)
        hidden += self.mlp.forward(self.mlp_norm.forward(hidden))
        return hidden


class LlamaModel:
    """Token ids to logits. Weights are read only; `forward` keeps no state outside the batch's cache."""

    def __init__(self, config: ModelConfig, loader: WeightLoader) -> None:
        weights = _Weights(config, loader)
        is_tied = weights.is_tied
        self._embedding = Embedding(weights.table(weights.embedding_name))
        self._rotary = RotaryEmbedding.from_config(config.rope)
        self._layers = [weights.decoder_layer(index) for index in range(config.num_hidden_layers)]
        self._norm = weights.norm("model.norm")
        self._head = Linear((self._embedding.weight if is_tied else weights.table(_HEAD),))
        loader.finish(ignored=_ignored_tensors(config.num_hidden_layers, is_tied))

    def forward(self, batch: ForwardBatch) -> NDArray[np.float32]:
        """Logits [R, vocab_size] of the batch's `logit_rows`."""
        hidden = self._embedding.forward(batch.token_ids)
        rotation = self._rotary.at(batch.positions)
        for layer in self._layers[:-1]:
            hidden = layer.forward(hidden, rotation, batch)
        hidden = self._layers[-1].forward(hidden, rotation, batch, keep=batch.logit_rows)
        return self._head.forward(self._norm.forward(hidden))


def _ignored_tensors(num_layers: int, is_tied: bool) -> tuple[str, ...]:
    """What checkpoints carry and the architecture does not use: old rotary buffers, a copy of tied embeddings."""
    buffers = tuple(f"model.layers.{index}.self_attn.rotary_emb.inv_freq" for index in range(num_layers))
    return (*buffers, f"{_HEAD}.weight") if is_tied else buffers


@dataclass(frozen=True, slots=True)
class _Weights:
    """The checkpoint's tensors as layers."""

    config: ModelConfig
    loader: WeightLoader

    @property
    def embedding_name(self) -> str:
        """Tied embeddings lie in the checkpoint under either of their two names."""
        is_missing = not self.loader.has(f"{_EMBEDDING}.weight")
        return _HEAD if is_missing and self.config.tie_word_embeddings else _EMBEDDING

    @property
    def is_tied(self) -> bool:
        """Whether embedding and head are one matrix. Two that differ are two, whatever the config says."""
        names = (f"{_EMBEDDING}.weight", f"{_HEAD}.weight")
        return self.config.tie_word_embeddings and (
            not all(map(self.loader.has, names)) or self.loader.are_equal(*names)
        )

    def decoder_layer(self, index: int) -> DecoderLayer:
        prefix = f"model.layers.{index}"
        return DecoderLayer(
            attention_norm=self.norm(f"{prefix}.input_layernorm"),
            attention=self.attention(index, f"{prefix}.self_attn"),
            mlp_norm=self.norm(f"{prefix}.post_attention_layernorm"),
            mlp=self.mlp(f"{prefix}.mlp"),
        )

    def attention(self, index: int, prefix: str) -> Attention:
        config = self.config
        sliding = config.layer_types[index] is LayerKind.SLIDING_ATTENTION
        query_size = config.num_attention_heads * config.head_dim
        key_value_size = config.num_key_value_heads * config.head_dim
        projections = {
            f"{prefix}.q_proj": query_size,
            f"{prefix}.k_proj": key_value_size,
            f"{prefix}.v_proj": key_value_size,
        }
        return Attention(
            layer_index=index,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            spec=AttentionSpec(scale=config.head_dim**-0.5, window=config.sliding_window if sliding else None),
            qkv=self.fused(projections, config.hidden_size, config.attention_bias),
            output=self.fused({f"{prefix}.o_proj": config.hidden_size}, query_size, config.attention_output_bias),
        )

    def mlp(self, prefix: str) -> GatedMLP:
        config = self.config
        gate_up = {f"{prefix}.gate_proj": config.intermediate_size, f"{prefix}.up_proj": config.intermediate_size}
        return GatedMLP(
            gate_up=self.fused(gate_up, config.hidden_size, config.mlp_bias),
            down=self.fused({f"{prefix}.down_proj": config.hidden_size}, config.intermediate_size, config.mlp_bias),
        )

    def norm(self, name: str) -> RMSNorm:
        return RMSNorm(self.loader.vector(f"{name}.weight", (self.config.hidden_size,)), self.config.rms_norm_eps)

    def table(self, name: str) -> kernels.PackedMatrix:
        """One row per token."""
        (weight,) = self.loader.matrix({f"{name}.weight": self.config.vocab_size}, self.config.hidden_size)
        return weight

    def fused(self, parts: dict[str, int], in_features: int, has_bias: bool) -> Linear:
        """Several products of the same input as one; `parts` maps module names to their output sizes."""
        weights = self.loader.matrix({f"{name}.weight": size for name, size in parts.items()}, in_features)
        if not has_bias:
            return Linear(weights)
        return Linear(weights, np.concatenate([self.loader.vector(f"{n}.bias", (size,)) for n, size in parts.items()]))
