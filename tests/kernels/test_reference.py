"""The specification itself, against exact arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from transom.kernels import reference

FINITE = st.floats(-(2.0**60), 2.0**60, width=32)


def nearest_float32(value: Fraction) -> np.float32:
    """Of the float32 around a first guess, the nearest; the even one of two."""
    guess = np.float32(float(value))
    around = (np.nextafter(guess, np.float32(-np.inf)), guess, np.nextafter(guess, np.float32(np.inf)))
    return min(around, key=lambda x: (abs(Fraction(float(x)) - value), int(x.view(np.uint32)) & 1))


@given(FINITE, FINITE, FINITE)
@example(1.0 + 2.0**-23, 1.0 + 2.0**-23, 2.0**-60)  # a tie but for the last bits: rounding twice would go wrong
@example(1.0 + 2.0**-12, 1.0 + 2.0**-12, -(2.0**-60))
def test_fma_rounds_once(a: float, b: float, c: float) -> None:
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    result = reference.fma(np.array([a], np.float32), np.array([b], np.float32), np.array([c], np.float32))[0]
    assert result == nearest_float32(exact)


def test_exp_is_within_two_ten_millionths_of_the_truth() -> None:
    x = np.linspace(-87.3, 88.0, 100_001).astype(np.float32)
    np.testing.assert_allclose(reference.exp(x), np.exp(x.astype(np.float64)), rtol=2e-7)


def test_exp_of_very_negative_numbers_is_zero_and_of_very_large_ones_finite() -> None:
    assert reference.exp(np.array([-88.0, -1e30, -np.inf], np.float32)).tolist() == [0.0, 0.0, 0.0]
    assert np.isfinite(reference.exp(np.array([1e30, np.inf], np.float32))).all()
