"""Root mean square layer normalisation (Zhang and Sennrich, 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from transom import kernels


class Norm(Protocol):
    """What may be done to rows before or after a block."""

    def forward(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """[T, hidden_size] -> [T, hidden_size]."""
        ...

    def forward_sum(self, x: NDArray[np.float32], update: NDArray[np.float32]) -> NDArray[np.float32]:
        """Adds `update` to `x` in place, both [T, hidden_size], then `forward` of the sum."""
        ...


@dataclass(frozen=True, slots=True)
class NoNorm:
    """Where a family has none."""

    def forward(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """`x` itself."""
        return x

    def forward_sum(self, x: NDArray[np.float32], update: NDArray[np.float32]) -> NDArray[np.float32]:
        """`x` itself, changed."""
        x += update
        return x


@dataclass(frozen=True, slots=True)
class RMSNorm:
    """x / sqrt(mean(x^2) + eps) * weight, row by row."""

    weight: NDArray[np.float32]  # [hidden_size]
    eps: float

    def forward(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """[T, hidden_size] -> [T, hidden_size]."""
        return kernels.rms_norm(x, self.weight, self.eps)

    def forward_sum(self, x: NDArray[np.float32], update: NDArray[np.float32]) -> NDArray[np.float32]:
        """One pass over both."""
        return kernels.add_rms_norm(x, update, self.weight, self.eps)
