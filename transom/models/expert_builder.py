"""`ExpertBuilder`: what families with a mixture of experts share."""

from __future__ import annotations

from transom.layers.mlp import FeedForward, MixtureOfExperts
from transom.models.decoder_builder import DecoderBuilder


class ExpertBuilder(DecoderBuilder):
    """Layers that the configuration gives no experts have the one feed-forward block of others."""

    def feed_forward(self, index: int, prefix: str) -> FeedForward:
        """Experts where the configuration has them."""
        experts = self.config.experts
        if experts is None or index not in experts.layers:
            return super().feed_forward(index, prefix)
        return MixtureOfExperts(
            router=self.fused({f"{prefix}.gate": experts.num_experts}, self.config.hidden_size, has_bias=False),
            experts=tuple(
                self.gated_mlp(f"{prefix}.experts.{number}", experts.moe_intermediate_size)
                for number in range(experts.num_experts)
            ),
            num_experts_per_tok=experts.num_experts_per_tok,
            normalizes_shares=experts.norm_topk_prob,
        )
