"""Root mean square layer normalisation (Zhang and Sennrich, 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transom import kernels


@dataclass(frozen=True, slots=True)
class RMSNorm:
    """x / sqrt(mean(x^2) + eps) * weight, row by row."""

    weight: NDArray[np.float32]  # [hidden_size]
    eps: float

    def forward(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """[T, hidden_size] -> [T, hidden_size]."""
        return kernels.rms_norm(x, self.weight, self.eps)

    def forward_sum(self, x: NDArray[np.float32], update: NDArray[np.float32]) -> NDArray[np.float32]:
        """Adds `update` to `x` in place, both [T, hidden_size], and normalises the sum."""
        return kernels.add_rms_norm(x, update, self.weight, self.eps)
