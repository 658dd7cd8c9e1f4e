"""What model families add to Llama, as plain data: factors, caps, experts, short convolutions.

The defaults are Llama's. Owns no keys: `model_families` reads them from `config.json`, `gguf_config` from GGUF files.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["NO_SCALING", "Experts", "Scaling", "ShortConvolution"]


@dataclass(frozen=True, slots=True)
class Scaling:
    """Factors and caps on what flows through a decoder."""

    embedding_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    """On what attention and feed-forward add to the residual stream."""
    attention_multiplier: float | None = None
    """On the attention scores; None = head_dim ** -0.5."""
    attn_logit_softcapping: float | None = None
    """Attention scores become cap * tanh(score / cap); None = they stay."""
    final_logit_softcapping: float | None = None
    """The same for the logits."""
    logits_scaling: float = 1.0
    """Logits are divided by it."""


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture of experts in place of the feed-forward block."""

    num_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    norm_topk_prob: bool
    """The chosen experts' shares are divided by their sum."""
    layers: tuple[int, ...]
    """Which layers have experts; the others have one feed-forward block."""


@dataclass(frozen=True, slots=True)
class ShortConvolution:
    """Gated causal convolutions over the last tokens, in the layers of kind SHORT_CONV."""

    conv_L_cache: int  # noqa: N815 - Hugging Face's key
    """Taps: each token sees itself and so many less one before it."""
    conv_bias: bool = False


NO_SCALING = Scaling()
