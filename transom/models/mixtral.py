"""Mixtral (Jiang et al., 2024): Mistral with experts in every layer."""

from __future__ import annotations

from transom.layers.linear import Linear
from transom.layers.mlp import FeedForward
from transom.models.expert_builder import ExpertBuilder


class MixtralBuilder(ExpertBuilder):
    """Its own names."""

    down_projection = "w2"

    def feed_forward(self, index: int, prefix: str) -> FeedForward:
        """Experts, in a module of its own name."""
        return super().feed_forward(index, prefix.removesuffix("mlp") + "block_sparse_moe")

    def gate_up(self, prefix: str, intermediate_size: int) -> Linear:
        """Gate and up are w1 and w3."""
        parts = {f"{prefix}.{name}": intermediate_size for name in ("w1", "w3")}
        return self.fused(parts, self.config.hidden_size, has_bias=False)
