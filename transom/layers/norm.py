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
