"""Selection against a full sort."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transom.sampling.selection import best_first, best_indices, first_exceeding

VALUES = st.lists(st.integers(-3, 3), min_size=1, max_size=60)


@given(VALUES, st.integers(0, 70))
def test_the_best_are_those_of_a_stable_sort(values: list[int], count: int) -> None:
    row = np.array(values, np.float32)
    expected = sorted(range(row.size), key=lambda i: (-row[i], i))[:count]
    assert best_first(row, count).tolist() == expected
    assert best_indices(row, count).tolist() == sorted(expected)


def test_minus_infinity_is_selected_last() -> None:
    row = np.array([-np.inf, 1.0, -np.inf, 0.5], np.float32)
    assert best_first(row, 3).tolist() == [1, 3, 0]


@pytest.mark.parametrize("size", [1, 2, 511, 512, 513, 5001])
@pytest.mark.parametrize("zeros", [0.0, 0.5, 0.999])
def test_the_first_that_exceeds_a_share_is_that_of_the_sum_in_order(size: int, zeros: float) -> None:
    """Weights that float64 adds without rounding, so that the order of the sums cannot matter."""
    rng = np.random.default_rng(size)
    weights = (rng.integers(1, 1000, size) * (rng.random(size) >= zeros)).astype(np.float32)
    weights[rng.integers(size)] = 3.0
    cumulated = np.cumsum(weights, dtype=np.float64)
    for share in [0.0, 0.5, 1.0 - 2.0**-52, *rng.random(50)]:
        expected = int(np.searchsorted(cumulated, share * cumulated[-1], side="right"))
        assert first_exceeding(weights, share) == expected


def test_whatever_rounding_does_what_is_found_has_a_weight() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        weights = np.exp(np.minimum(rng.standard_normal(1500) * 30 - 40, 0)).astype(np.float32) * (
            rng.random(1500) < 0.02
        )
        weights[rng.integers(1500)] = 1.0
        for share in [0.0, 1.0 - 2.0**-52, float(rng.random())]:
            assert weights[first_exceeding(weights, share)] > 0
