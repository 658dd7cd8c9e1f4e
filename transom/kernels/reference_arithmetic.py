"""Float32 operations that NumPy has not got, one rounding each. For the references of the kernels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def fma(a: Floats, b: Floats, c: Floats) -> Floats:
    """a * b + c with one rounding.

    The product is exact in float64. The sum is rounded there to odd (when inexact, to the neighbour whose last bit is
    set), which makes the second rounding, to float32, come out as if it were the only one.
    """
    product, addend = a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64)
    total = np.asarray(product + addend)
    rest = total - product
    error = (product - (total - rest)) + (addend - rest)
    is_even = total.view(np.int64) & 1 == 0
    odd = np.where((error != 0) & is_even, np.nextafter(total, np.copysign(np.inf, error)), total)
    return odd.astype(np.float32)
