"""What every kernel computes, in NumPy, under the names of `transom.kernels`: specification and oracle.

Everything but attention is given operation by operation: each NumPy operation below rounds to float32 as the native
instruction does, in the same order, so the native results are expected to be *equal*, not close. Attention is given in
float64 (`reference_attention`), to within rounding. Written for reading; knows nothing of panels, threads, speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from transom.kernels import reference_quantized
from transom.kernels.reference_arithmetic import Floats, fma
from transom.kernels.reference_attention import KVLayout, attend, store_kv
from transom.kernels.reference_quantize import quantize
from transom.kernels.reference_quantized import dequantize, row_bytes

__all__ = [
    "KVLayout",
    "PackedMatrix",
    "attend",
    "checksum",
    "dequantize",
    "embed",
    "exp",
    "fma",
    "geglu",
    "matmul",
    "quantize",
    "rms_norm",
    "rms_norm_heads",
    "rotate",
    "row_bytes",
    "short_conv",
    "soft_cap",
    "softmax",
    "store_kv",
    "swiglu",
]

CHUNK = 256
LANES = 16


class PackedMatrix:
    """The weights of the native class as a plain float32 matrix, and quantised ones as their blocks, too."""

    def __init__(self, out_features: int, in_features: int, dtype: str) -> None:
        self.dtype = dtype
        self.weight = np.zeros((out_features, in_features), np.float32)
        self.is_quantized = dtype in reference_quantized.TYPES
        num_bytes = row_bytes(dtype, in_features) if self.is_quantized else 0
        self.blocks = np.zeros((out_features, num_bytes), np.uint8)

    def fill(self, row: int, weight: NDArray[np.generic]) -> None:
        """Rows row .. row + n become weight[n, in_features]; bf16 comes as uint16, quantised types as uint8."""
        rows = slice(row, row + len(weight))
        if self.is_quantized:
            self.blocks[rows] = weight
            self.weight[rows] = dequantize(self.dtype, self.blocks[rows])
        else:
            self.weight[rows] = _widened_bf16(weight) if self.dtype == "bf16" else weight


def _widened_bf16(weight: NDArray[np.generic]) -> Floats:
    return (weight.astype(np.uint32) << 16).view(np.float32)


def matmul(x: Floats, weight: PackedMatrix | Sequence[PackedMatrix], bias: Floats | None = None) -> Floats:
    """x[M, K] @ weight[N, K].T + bias[N]; several matrices side by side."""
    matrices = [weight] if isinstance(weight, PackedMatrix) else weight
    total = np.concatenate([_product(x, matrix) for matrix in matrices], axis=1)
    return total if bias is None else total + bias


def _product(x: Floats, weight: PackedMatrix) -> Floats:
    """Of floats: chunks of K from zero by FMA, added in order to zero."""
    if weight.is_quantized:
        return reference_quantized.matmul(x, weight.dtype, weight.blocks)
    total = np.zeros((len(x), len(weight.weight)), np.float32)
    for begin in range(0, x.shape[1], CHUNK):
        total = total + _chunk_sum(x[:, begin : begin + CHUNK], weight.weight[:, begin : begin + CHUNK])
    return total


def _chunk_sum(x: Floats, weight: Floats) -> Floats:
    total = np.zeros((len(x), len(weight)), np.float32)
    for k in range(x.shape[1]):
        total = fma(x[:, k, None], weight[None, :, k], total)
    return total


def embed(weight: PackedMatrix, token_ids: NDArray[np.int32]) -> Floats:
    """Rows of the matrix."""
    rows: Floats = weight.weight[token_ids]
    return rows


def rms_norm(x: Floats, weight: Floats, eps: float) -> Floats:
    """x * (1 / sqrt(mean(x ** 2) + eps)) * weight, row by row."""
    mean = _sum_of_squares(x) / np.float32(x.shape[1])
    factor: Floats = np.float32(1) / np.sqrt(mean + np.float32(eps))
    return x * factor[:, None] * weight


def add_rms_norm(x: Floats, update: Floats, weight: Floats, eps: float) -> Floats:
    """x += update, in place; then the norm of the sum."""
    x += update
    return rms_norm(x, weight, eps)


def _sum_of_squares(x: Floats) -> Floats:
    """Lane l takes elements l, l + 16, ...; then lane i takes in lane i + 8, i + 4, i + 2, i + 1."""
    padded = np.pad(x, ((0, 0), (0, -x.shape[1] % LANES)))
    lanes = np.zeros((len(x), LANES), np.float32)
    for begin in range(0, padded.shape[1], LANES):
        values = padded[:, begin : begin + LANES]
        lanes = fma(values, values, lanes)
    return _lane_sum(lanes)


def _lane_sum(lanes: Floats) -> Floats:
    for width in (8, 4, 2, 1):
        lanes = lanes[:, :width] + lanes[:, width : 2 * width]
    return lanes[:, 0]


def rotate(x: Floats, cos: Floats, sin: Floats) -> None:
    """(a, b) becomes (a cos - b sin, b cos + a sin), a and b being elements i and i + R / 2 of a head; in place."""
    half = cos.shape[1]
    cos, sin = cos[:, None, :], sin[:, None, :]
    a, b = x[:, :, :half].copy(), x[:, :, half : 2 * half].copy()
    x[:, :, :half] = a * cos - b * sin
    x[:, :, half : 2 * half] = b * cos + a * sin


def exp(x: Floats) -> Floats:
    """e ** x as every kernel computes it: 2 ** n times a polynomial in the rest r, |r| <= ln(2) / 2.

    Below -87.336544 it is 0, above 88.02 it is e ** 88.02.
    """
    clamped = np.minimum(np.float32(88.02), np.maximum(np.float32(-87.336544), x))
    n = np.round(clamped * np.float32(1.44269504088896341))
    r = _fma_constant(n, -0.693359375, clamped)
    r = _fma_constant(n, 2.12194440e-4, r)
    polynomial = np.full_like(r, 1.9875691500e-4)
    for coefficient in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        polynomial = fma(polynomial, r, np.full_like(r, coefficient))
    result = np.ldexp(fma(polynomial, r * r, r + np.float32(1)), n.astype(np.int32))
    return np.where(x < np.float32(-87.336544), np.float32(0), result)


def _fma_constant(a: Floats, constant: float, c: Floats) -> Floats:
    return fma(a, np.full_like(a, constant), c)


def swiglu(gate_up: Floats) -> Floats:
    """silu of the first half of the columns times the second half."""
    gate, up = np.split(gate_up, 2, axis=1)
    return gate / (np.float32(1) + exp(np.float32(0) - gate)) * up


def geglu(gate_up: Floats) -> Floats:
    """gelu of the first half of the columns, approximated by tanh, times the second half."""
    gate, up = np.split(gate_up, 2, axis=1)
    squares = gate * gate
    twice_u = gate * fma(squares, np.full_like(gate, 0.071354816), np.full_like(gate, 1.5957691))
    return gate / (np.float32(1) + exp(np.float32(0) - twice_u)) * up


def rms_norm_heads(x: Floats, weight: Floats, eps: float) -> None:
    """`rms_norm` of every head of x[T, heads, D], in place."""
    x[...] = rms_norm(x.reshape(-1, x.shape[2]), weight, eps).reshape(x.shape)


def tanh(x: Floats) -> Floats:
    """1 - 2 / (e ** 2x + 1)."""
    one = np.float32(1)
    result: Floats = one - np.float32(2) / (exp(x + x) + one)
    return result


def soft_cap(x: Floats, cap: float) -> None:
    """cap * tanh(x / cap), in place."""
    x[...] = np.float32(cap) * tanh(x / np.float32(cap))


def softmax(x: Floats) -> Floats:
    """exp(x - max) / sum over rows; lane l adds up elements l, l + 16, ..., then the lanes' tree."""
    weights = exp(x - x.max(axis=1, keepdims=True))
    padded = np.pad(weights, ((0, 0), (0, -x.shape[1] % LANES)))
    lanes = np.zeros((len(x), LANES), np.float32)
    for begin in range(0, padded.shape[1], LANES):
        lanes = lanes + padded[:, begin : begin + LANES]
    return weights / _lane_sum(lanes)[:, None]


def short_conv(
    x: Floats, history: Floats, sequence_starts: NDArray[np.int32], weight: Floats, bias: Floats | None = None
) -> Floats:
    """Taps by FMA from the bias on, oldest first; a sequence's rows follow its history."""
    out = np.zeros_like(x) if bias is None else np.tile(bias, (len(x), 1))
    for sequence, (begin, end) in enumerate(pairwise(sequence_starts)):
        rows = np.concatenate([history[sequence], x[begin:end]])
        for tap, factors in enumerate(weight):
            inputs = rows[tap : tap + end - begin]
            out[begin:end] = fma(inputs, np.broadcast_to(factors, inputs.shape), out[begin:end])
    return out


def checksum(array: NDArray[np.uint8]) -> tuple[int, int]:
    """Four CRC-32C: word i of eight bytes belongs to lane i mod 4, the number of bytes follows as a word of lane 0."""
    words = np.pad(array, (0, -len(array) % 8)).reshape(-1, 8).tolist()
    lanes = [_crc32c(b"".join(map(bytes, words[lane::4])) + tail) for lane, tail in enumerate(_tails(len(array)))]
    return lanes[0] | lanes[1] << 32, lanes[2] | lanes[3] << 32


def _tails(num_bytes: int) -> tuple[bytes, bytes, bytes, bytes]:
    return num_bytes.to_bytes(8, "little"), b"", b"", b""


def _crc32c(data: bytes) -> int:
    """The common CRC-32C (polynomial 0x1EDC6F41, bits reversed, ones before and after)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF
