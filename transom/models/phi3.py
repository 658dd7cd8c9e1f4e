"""Phi-3 and Phi-4 (Abdin et al., 2024): Llama whose checkpoints hold fused projections, and longrope."""

from __future__ import annotations

from transom.layers.linear import Linear
from transom.models.decoder_builder import DecoderBuilder


class Phi3Builder(DecoderBuilder):
    """Query, key and value lie one behind the other in one tensor, and so do gate and up."""

    def qkv(self, prefix: str, query_size: int, key_value_size: int) -> Linear:
        """One tensor."""
        return self._whole(f"{prefix}.qkv_proj", query_size + 2 * key_value_size)

    def gate_up(self, prefix: str, intermediate_size: int) -> Linear:
        """One tensor."""
        return self._whole(f"{prefix}.gate_up_proj", 2 * intermediate_size)

    def _whole(self, name: str, out_features: int) -> Linear:
        return self.fused({name: out_features}, self.config.hidden_size, has_bias=False)
