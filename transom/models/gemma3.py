"""Gemma 3 text models (Gemma team, 2025): Gemma 2 with norms of the heads; sliding layers have a rope of their own."""

from __future__ import annotations

from transom.layers.attention import HeadsNorm, PerHeadNorm
from transom.models.gemma2 import Gemma2Builder


class Gemma3Builder(Gemma2Builder):
    """Heads are normalised before they are rotated."""

    def heads_norm(self, name: str, _num_heads: int) -> HeadsNorm:
        """One weight for all heads."""
        return PerHeadNorm(self.norm_weight(name, self.config.head_dim), self.config.rms_norm_eps)
