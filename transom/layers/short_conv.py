"""Gated short convolution (LFM2, Liquid AI, 2025): out(c * conv(b * x)), where b, c and x are products of the input.

Owns the projections and the taps. What the convolution saw before this batch is behind `ForwardBatch.cache`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transom.layers.forward_batch import ForwardBatch
from transom.layers.linear import Linear
from transom.layers.rotary import Rotations

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ShortConv:
    """One layer's token mixer; b, c and x are one fused product."""

    layer_index: int
    input: Linear  # [3 * hidden_size, hidden_size]: rows of b, then c, then x
    taps: Floats  # [taps, hidden_size], oldest first
    bias: Floats | None  # [hidden_size]
    output: Linear  # [hidden_size, hidden_size]

    def forward(
        self, x: Floats, _rotations: Rotations, batch: ForwardBatch, keep: NDArray[np.int32] | None = None
    ) -> Floats:
        """[T, hidden_size] -> the same, or only the rows `keep` of it."""
        before, after, values = np.split(self.input.forward(x), 3, axis=1)
        mixed = batch.cache.convolve(self.layer_index, before * values, self.taps, self.bias)
        gated = after * mixed
        return self.output.forward(gated if keep is None else gated[keep])
