"""Qwen3: Llama with a norm of every query and key head (Qwen team, 2025)."""

from __future__ import annotations

from transom.layers.attention import HeadsNorm, PerHeadNorm
from transom.models.decoder_builder import DecoderBuilder


class Qwen3Builder(DecoderBuilder):
    """Heads are normalised before they are rotated."""

    def heads_norm(self, name: str, _num_heads: int) -> HeadsNorm:
        """One weight for all heads."""
        return PerHeadNorm(self.norm_weight(name, self.config.head_dim), self.config.rms_norm_eps)
