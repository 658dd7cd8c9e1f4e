"""OLMo 2 (OLMo team, 2025): norms behind the blocks instead of before them, and over whole projections."""

from __future__ import annotations

from transom.layers.attention import HeadsNorm, WholeProjectionNorm
from transom.layers.norm import NoNorm
from transom.models.decoder import DecoderLayer
from transom.models.decoder_builder import DecoderBuilder


class Olmo2Builder(DecoderBuilder):
    """The residual stream goes into the blocks as it is."""

    def layer(self, index: int, prefix: str) -> DecoderLayer:
        """Norms after both blocks, none before them."""
        return DecoderLayer(
            mixer_norm=NoNorm(),
            mixer=self.mixer(index, prefix),
            mixer_output_norm=self.norm(f"{prefix}.post_attention_layernorm"),
            mlp_norm=NoNorm(),
            mlp=self.feed_forward(index, f"{prefix}.mlp"),
            mlp_output_norm=self.norm(f"{prefix}.post_feedforward_layernorm"),
        )

    def heads_norm(self, name: str, num_heads: int) -> HeadsNorm:
        """Over all heads of a token."""
        weight = self.norm_weight(name, num_heads * self.config.head_dim)
        return WholeProjectionNorm(weight, self.config.rms_norm_eps)
