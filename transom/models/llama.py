"""Llama, and every family that computes the same with other settings (Mistral, Ministral, Qwen2, SmolLM3, Granite).

Settings that make the difference: attention window per layer, layers without positions, biases, tied embeddings,
head_dim, rope type, factors. Source: Touvron et al., 2023; Jiang et al., 2023 (Mistral); Yang et al., 2024 (Qwen2).
"""

from __future__ import annotations

from transom.models.decoder_builder import DecoderBuilder


class LlamaBuilder(DecoderBuilder):
    """Nothing differs."""
