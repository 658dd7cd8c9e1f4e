"""Gemma 2 (Gemma team, 2024): norms on both sides of the blocks, GeGLU, soft caps, every second layer sliding."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from transom.models.decoder import DecoderLayer
from transom.models.decoder_builder import DecoderBuilder


class Gemma2Builder(DecoderBuilder):
    """Norm weights are stored as what they exceed 1 by, or whole, under another name (GGUF files)."""

    def layer(self, index: int, prefix: str) -> DecoderLayer:
        """Norms before and after both blocks."""
        return DecoderLayer(
            mixer_norm=self.norm(f"{prefix}.input_layernorm"),
            mixer=self.mixer(index, prefix),
            mixer_output_norm=self.norm(f"{prefix}.post_attention_layernorm"),
            mlp_norm=self.norm(f"{prefix}.pre_feedforward_layernorm"),
            mlp=self.feed_forward(index, f"{prefix}.mlp"),
            mlp_output_norm=self.norm(f"{prefix}.post_feedforward_layernorm"),
        )

    def norm_weight(self, name: str, size: int) -> NDArray[np.float32]:
        """1 + what is stored."""
        whole = f"{name}.whole_weight"
        if self.loader.has(whole):
            return self.loader.vector(whole, (size,))
        return np.float32(1) + super().norm_weight(name, size)
