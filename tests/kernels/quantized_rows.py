"""Rows of ggml's blocks with chosen scales and random codes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from transom.kernels import row_bytes

# Of each type: weights per block, bytes per block, where its half floats are.
BLOCKS: dict[str, tuple[int, int, tuple[int, ...]]] = {
    "q8_0": (32, 34, (0,)),
    "q4_0": (32, 18, (0,)),
    "q4_1": (32, 20, (0, 2)),
    "q5_0": (32, 22, (0,)),
    "q5_1": (32, 24, (0, 2)),
    "q2_k": (256, 84, (80, 82)),
    "q3_k": (256, 110, (108,)),
    "q4_k": (256, 144, (0, 2)),
    "q5_k": (256, 176, (0, 2)),
    "q6_k": (256, 210, (208,)),
    "iq4_nl": (32, 18, (0,)),
    "iq4_xs": (256, 136, (0,)),
}
DTYPES: tuple[Any, ...] = tuple(BLOCKS)
ORDINARY = np.array([0.0123, -0.0071, 0.0034, 0.0], np.float16)
ODD = np.array([6e-8, -6e-8, 3e-5, -0.0, 0.0, 65504, -65504, 1.0], np.float16)  # subnormal, zero, largest
NON_FINITE = np.array([np.inf, -np.inf, np.nan, 0.01], np.float16)


def with_halves(blocks: NDArray[np.uint8], dtype: str, halves: NDArray[np.float16]) -> NDArray[np.uint8]:
    """The blocks with half floats drawn from `halves`."""
    random = np.random.default_rng(len(blocks))
    for offset in BLOCKS[dtype][2]:
        blocks[:, offset : offset + 2] = random.choice(halves, len(blocks)).view(np.uint8).reshape(-1, 2)
    return blocks


def rows_of(
    seed: int, dtype: Any, num_rows: int, in_features: int, halves: NDArray[np.float16] = ORDINARY
) -> NDArray[np.uint8]:
    """uint8 [num_rows, row_bytes] of random codes and scales."""
    num_bytes = row_bytes(dtype, in_features)
    blocks = np.random.default_rng(seed).integers(0, 256, (num_rows * num_bytes) // BLOCKS[dtype][1] * BLOCKS[dtype][1])
    filled = with_halves(blocks.astype(np.uint8).reshape(-1, BLOCKS[dtype][1]), dtype, halves)
    return filled.reshape(num_rows, num_bytes)


def extreme_rows_of(byte: int, dtype: Any, num_rows: int, in_features: int) -> NDArray[np.uint8]:
    """Every byte the same (0: the lowest codes, 255: the highest), scales 1."""
    rows = np.full((num_rows * row_bytes(dtype, in_features),), byte, np.uint8)
    return with_halves(rows.reshape(-1, BLOCKS[dtype][1]), dtype, np.ones(1, np.float16)).reshape(num_rows, -1)
