"""LFM2 and LFM2.5 (Liquid AI, 2025): gated short convolutions, and attention with norms of the heads in some layers."""

from __future__ import annotations

import numpy as np

from transom.config.model_config import LayerKind
from transom.layers.linear import Linear
from transom.layers.norm import NoNorm
from transom.layers.short_conv import ShortConv
from transom.models.decoder import DecoderLayer, Mixer
from transom.models.qwen3 import Qwen3Builder


class Lfm2Builder(Qwen3Builder):
    """Its own names, and two kinds of mixers."""

    final_norm = "model.embedding_norm"
    output_projection = "out_proj"
    head_norms = ("q_layernorm", "k_layernorm")
    down_projection = "w2"

    def layer(self, index: int, prefix: str) -> DecoderLayer:
        """Norms before both blocks, none after them."""
        return DecoderLayer(
            mixer_norm=self.norm(f"{prefix}.operator_norm"),
            mixer=self.mixer(index, prefix),
            mixer_output_norm=NoNorm(),
            mlp_norm=self.norm(f"{prefix}.ffn_norm"),
            mlp=self.feed_forward(index, f"{prefix}.feed_forward"),
            mlp_output_norm=NoNorm(),
        )

    def mixer(self, index: int, prefix: str) -> Mixer:
        """A convolution where the layer is of that kind."""
        if self.config.layer_types[index] is LayerKind.SHORT_CONV:
            return self._short_conv(index, f"{prefix}.conv")
        return super().mixer(index, prefix)

    def gate_up(self, prefix: str, intermediate_size: int) -> Linear:
        """Gate and up are w1 and w3."""
        parts = {f"{prefix}.{name}": intermediate_size for name in ("w1", "w3")}
        return self.fused(parts, self.config.hidden_size, has_bias=False)

    def _short_conv(self, index: int, prefix: str) -> ShortConv:
        config, size = self.config.short_conv, self.config.hidden_size
        assert config is not None, "the configuration has convolution layers without convolutions"
        taps = self.loader.vector(f"{prefix}.conv.weight", (size, 1, config.conv_L_cache))
        return ShortConv(
            layer_index=index,
            input=self.fused({f"{prefix}.in_proj": 3 * size}, size, config.conv_bias),
            taps=np.ascontiguousarray(taps[:, 0].T),
            bias=self.loader.vector(f"{prefix}.conv.bias", (size,)) if config.conv_bias else None,
            output=self.fused({f"{prefix}.out_proj": size}, size, config.conv_bias),
        )
