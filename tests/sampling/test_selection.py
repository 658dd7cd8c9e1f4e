"""Selection against a full sort."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from transom.sampling.selection import best_first, best_indices

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
