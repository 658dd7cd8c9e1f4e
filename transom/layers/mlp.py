"""The gated feed-forward block of the Llama family (SwiGLU, Shazeer 2020)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transom import kernels
from transom.layers.linear import Linear


@dataclass(frozen=True, slots=True)
class GatedMLP:
    """down(silu(gate(x)) * up(x)); gate and up are one fused product."""

    gate_up: Linear  # [2 * intermediate_size, hidden_size]: gate rows, then up rows
    down: Linear  # [hidden_size, intermediate_size]

    def forward(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """[T, hidden_size] -> [T, hidden_size]."""
        return self.down.forward(kernels.swiglu(self.gate_up.forward(x)))
