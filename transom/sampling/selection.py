"""Picking the best entries of a long row without sorting it. Knows no tokens and no parameters."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def best_indices(values: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """Indices of the `count` largest values [N], ascending by index; of equal values the lower index wins.

    A partition finds the value of the last one in, which is much cheaper than sorting a vocabulary.
    """
    if count >= values.size:
        return np.arange(values.size)
    if count <= 0:
        return np.empty(0, np.intp)
    cutoff = np.partition(values, values.size - count)[values.size - count]
    above = np.flatnonzero(values > cutoff)
    ties = np.flatnonzero(values == cutoff)[: count - above.size]
    return np.sort(np.concatenate((above, ties)))


def best_first(values: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """Like `best_indices`, but the largest value first, equal values by ascending index."""
    indices = best_indices(values, count)
    return indices[np.argsort(-values[indices], kind="stable")]
