"""Picking the best entries of a long row without sorting it. Knows no tokens and no parameters."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_RUN = 512


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


def first_exceeding(weights: NDArray[np.float32], share: float) -> int:
    """The index where the cumulated weight [N] first exceeds `share`, in [0, 1), of the total; its weight is not zero.

    One entry after the other takes over a millisecond for a large vocabulary, and sums of runs a twentieth of that. So
    the run is found first, and then the entry in it. Float64 throughout; a function of the arguments alone.
    """
    runs = np.cumsum(np.add.reduceat(weights, np.arange(0, weights.size, _RUN), dtype=np.float64))
    wanted = share * runs[-1]
    run = int(np.searchsorted(runs, wanted, side="right"))
    start = run * _RUN
    cumulated = np.cumsum(weights[start : start + _RUN], dtype=np.float64)
    within = min(wanted - (runs[run - 1] if run else 0.0), np.nextafter(cumulated[-1], 0.0))  # sums are rounded
    return start + int(np.searchsorted(cumulated, within, side="right"))
