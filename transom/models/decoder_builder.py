"""`DecoderBuilder`: a decoder from a configuration and a checkpoint. It builds Llama; families say what differs.

Names of tensors are those of Hugging Face's checkpoints. Knows which layers exist, not what they compute.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from transom import kernels
from transom.config.model_config import LayerKind, ModelConfig
from transom.layers.attention import Attention, HeadsNorm, NoHeadsNorm
from transom.layers.forward_batch import AttentionSpec
from transom.layers.linear import Embedding, Linear
from transom.layers.mlp import FeedForward, GatedMLP
from transom.layers.norm import NoNorm, Norm, RMSNorm
from transom.layers.rotary import NoRotaryEmbedding, RotaryEmbedding
from transom.models.decoder import Decoder, DecoderLayer, Mixer, OutputHead
from transom.weights.loader import WeightLoader

EMBEDDING = "model.embed_tokens"
HEAD = "lm_head"

_GATES = {"silu": kernels.swiglu, "gelu_pytorch_tanh": kernels.geglu}
_FULL, _SLIDING, _NONE = range(3)  # the rotations of a pass


class DecoderBuilder:
    """Builds once. Subclasses override the parts in which their family differs from Llama."""

    arithmetic_version = 1
    """Of the family: to be raised by whoever changes what it computes, this class's or the subclass's own."""
    final_norm = "model.norm"
    output_projection = "o_proj"
    head_norms = ("q_norm", "k_norm")
    """Of queries and of keys, where the family has them."""
    norms_after_rotation = False
    """Queries and keys are normalised after they are rotated."""
    down_projection = "down_proj"

    def __init__(self, config: ModelConfig, loader: WeightLoader) -> None:
        self.config = config
        self.loader = loader

    def build(self) -> Decoder:
        """Loads every weight. Raises WeightsError for tensors that are missing, misshapen or unknown."""
        config, is_tied = self.config, self._is_tied
        embedding = Embedding(self._table(self._embedding_name))
        layers = [self.layer(index, f"model.layers.{index}") for index in range(config.num_hidden_layers)]
        head = OutputHead(
            norm=self.norm(self.final_norm),
            weight=Linear((embedding.weight if is_tied else self._table(HEAD),)),
            divisor=config.scaling.logits_scaling,
            soft_cap=config.scaling.final_logit_softcapping,
        )
        self.loader.finish(ignored=self._ignored_tensors(is_tied))
        return Decoder(embedding, config.scaling.embedding_multiplier, self._rotaries(), layers, head)

    # ---- What families override --------------------------------------------------------------------------------

    def layer(self, index: int, prefix: str) -> DecoderLayer:
        """Norms before both blocks, none after them."""
        return DecoderLayer(
            mixer_norm=self.norm(f"{prefix}.input_layernorm"),
            mixer=self.mixer(index, prefix),
            mixer_output_norm=NoNorm(),
            mlp_norm=self.norm(f"{prefix}.post_attention_layernorm"),
            mlp=self.feed_forward(index, f"{prefix}.mlp"),
            mlp_output_norm=NoNorm(),
            residual_multiplier=self.config.scaling.residual_multiplier,
        )

    def mixer(self, index: int, prefix: str) -> Mixer:
        """Attention in every layer."""
        return self.attention(index, f"{prefix}.self_attn")

    def feed_forward(self, _index: int, prefix: str) -> FeedForward:
        """One gated block."""
        return self.gated_mlp(prefix, self.config.intermediate_size)

    def norm(self, name: str) -> Norm:
        """Over a row of hidden_size."""
        return RMSNorm(self.norm_weight(name, self.config.hidden_size), self.config.rms_norm_eps)

    def norm_weight(self, name: str, size: int) -> NDArray[np.float32]:
        """As it lies in the checkpoint."""
        return self.loader.vector(f"{name}.weight", (size,))

    def heads_norm(self, _name: str, _num_heads: int) -> HeadsNorm:
        """Queries and keys stay as they are."""
        return NoHeadsNorm()

    def qkv(self, prefix: str, query_size: int, key_value_size: int) -> Linear:
        """Three products as one."""
        sizes = {"q_proj": query_size, "k_proj": key_value_size, "v_proj": key_value_size}
        parts = {f"{prefix}.{name}": size for name, size in sizes.items()}
        return self.fused(parts, self.config.hidden_size, self.config.attention_bias)

    def gate_up(self, prefix: str, intermediate_size: int) -> Linear:
        """Two products as one."""
        parts = {f"{prefix}.{name}": intermediate_size for name in ("gate_proj", "up_proj")}
        return self.fused(parts, self.config.hidden_size, self.config.mlp_bias)

    # ---- Parts -------------------------------------------------------------------------------------------------

    def attention(self, index: int, prefix: str) -> Attention:
        """With the window, the scale and the positions of its layer."""
        config = self.config
        query_norm, key_norm = self.head_norms
        output = self.output_projection
        sliding = config.layer_types[index] is LayerKind.SLIDING_ATTENTION
        query_size = config.num_attention_heads * config.head_dim
        return Attention(
            layer_index=index,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            spec=AttentionSpec(
                scale=config.attention_scale,
                window=config.sliding_window if sliding else None,
                soft_cap=config.scaling.attn_logit_softcapping,
            ),
            qkv=self.qkv(prefix, query_size, config.num_key_value_heads * config.head_dim),
            output=self.fused({f"{prefix}.{output}": config.hidden_size}, query_size, config.attention_output_bias),
            rotation_index=_NONE if index in config.nope_layers else _SLIDING if sliding else _FULL,
            query_norm=self.heads_norm(f"{prefix}.{query_norm}", config.num_attention_heads),
            key_norm=self.heads_norm(f"{prefix}.{key_norm}", config.num_key_value_heads),
            normalizes_rotated=self.norms_after_rotation,
        )

    def gated_mlp(self, prefix: str, intermediate_size: int) -> GatedMLP:
        """With the family's activation."""
        config, down = self.config, self.down_projection
        return GatedMLP(
            gate_up=self.gate_up(prefix, intermediate_size),
            down=self.fused({f"{prefix}.{down}": config.hidden_size}, intermediate_size, config.mlp_bias),
            gate=_GATES[config.hidden_act],
        )

    def fused(self, parts: dict[str, int], in_features: int, has_bias: bool) -> Linear:
        """Several products of the same input as one; `parts` maps module names to their output sizes."""
        weights = self.loader.matrix({f"{name}.weight": size for name, size in parts.items()}, in_features)
        if not has_bias:
            return Linear(weights)
        biases = [self.loader.vector(f"{name}.bias", (size,)) for name, size in parts.items()]
        return Linear(weights, np.concatenate(biases))

    # ---- The ends of the stack ---------------------------------------------------------------------------------

    def _rotaries(self) -> tuple[RotaryEmbedding | NoRotaryEmbedding, ...]:
        """In the order of their indices."""
        config = self.config
        ropes = (config.rope, config.sliding_rope or config.rope)
        rotaries = (RotaryEmbedding.from_config(rope, config.max_position_embeddings) for rope in ropes)
        return (*rotaries, NoRotaryEmbedding())

    @property
    def _embedding_name(self) -> str:
        """Tied embeddings lie in the checkpoint under either of their two names."""
        is_missing = not self.loader.has(f"{EMBEDDING}.weight")
        return HEAD if is_missing and self.config.tie_word_embeddings else EMBEDDING

    @property
    def _is_tied(self) -> bool:
        """Whether embedding and head are one matrix. Two that differ are two, whatever the config says."""
        names = (f"{EMBEDDING}.weight", f"{HEAD}.weight")
        return self.config.tie_word_embeddings and (
            not all(map(self.loader.has, names)) or self.loader.are_equal(*names)
        )

    def _table(self, name: str) -> kernels.PackedMatrix:
        """One row per token."""
        (weight,) = self.loader.matrix({f"{name}.weight": self.config.vocab_size}, self.config.hidden_size)
        return weight

    def _ignored_tensors(self, is_tied: bool) -> tuple[str, ...]:
        """What checkpoints carry and the architecture does not use: old rotary buffers, a copy of tied embeddings."""
        layers = range(self.config.num_hidden_layers)
        buffers = tuple(f"model.layers.{index}.self_attn.rotary_emb.inv_freq" for index in layers)
        return (*buffers, f"{HEAD}.weight") if is_tied else buffers
