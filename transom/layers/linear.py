"""Matrix product with optional bias, over a packed weight."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transom import kernels


@dataclass(frozen=True, slots=True)
class Linear:
    """y = x W^T + b for weights of shape [out_features, in_features]: one matrix, or several of different types."""

    weights: tuple[kernels.PackedMatrix, ...]  # stacked by rows
    bias: NDArray[np.float32] | None = None  # [out_features]

    def forward(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """[M, in_features] -> [M, out_features]."""
        return kernels.matmul(x, self.weights, self.bias)


@dataclass(frozen=True, slots=True)
class Embedding:
    """Rows of the embedding table; the same packed weight can serve as output head."""

    weight: kernels.PackedMatrix  # [vocab_size, hidden_size]

    def forward(self, token_ids: NDArray[np.int32]) -> NDArray[np.float32]:
        """[T] -> [T, hidden_size]."""
        return kernels.embed(self.weight, token_ids)
