"""What the kernels compute with quantised weights, in NumPy: ggml's blocks taken apart, made floats, multiplied.

A row of weights is a sequence of blocks of 32 or 256. A weight is `scale * code + minimum`: the scale is the block's
(a half float) times the sub-block's (a small integer), and so is the minimum, where the type has one. The layouts are
those of ggml's file format (ggml-common.h, ggml-quants.c). Every operation rounds as the native one does, in the same
order: results are expected to be equal. Knows nothing of panels, threads, speed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transom.kernels.reference_arithmetic import Floats, fma

Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]

CODEBOOK = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int64)


@dataclass(frozen=True)
class Blocks:
    """Blocks of one type, taken apart."""

    codes: Integers  # [B, block size]
    block_scales: Floats  # [B]
    scales: Integers  # [B, sub-blocks]; blocks of 32 have one sub-block and the scale 1
    block_minima: Floats | None = None  # [B]
    minima: Integers | None = None  # [B, sub-blocks]


def _halves(blocks: Bytes, offset: int) -> Floats:
    halves = np.ascontiguousarray(blocks[:, offset : offset + 2]).view(np.float16)[:, 0]
    with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
        return halves.astype(np.float32)


def _integers(blocks: Bytes, begin: int, end: int) -> Integers:
    return blocks[:, begin:end].astype(np.int64)


def _fields(values: Integers, run: int, bits: int, shifts: list[int]) -> Integers:
    """Bit fields of runs of bytes: per run the first field of all its bytes, then the second, ..."""
    shape = (len(values), -1, 1, run)
    fields: Integers = values.reshape(shape) >> np.array(shifts)[:, None] & (1 << bits) - 1
    return fields.reshape(len(values), -1)


def _words(blocks: Bytes, begin: int, dtype: str) -> Integers:
    size = np.dtype(dtype).itemsize
    words: Integers = np.ascontiguousarray(blocks[:, begin : begin + size]).view(dtype)[:, 0].astype(np.int64)
    return words


def _ones(blocks: Bytes) -> Integers:
    return np.ones((len(blocks), 1), np.int64)


def _q8_0(blocks: Bytes) -> Blocks:
    codes = np.ascontiguousarray(blocks[:, 2:]).view(np.int8).astype(np.int64)
    return Blocks(codes, _halves(blocks, 0), _ones(blocks))


def _q4_0(blocks: Bytes) -> Blocks:
    return Blocks(_fields(_integers(blocks, 2, 18), 16, 4, [0, 4]) - 8, _halves(blocks, 0), _ones(blocks))


def _q4_1(blocks: Bytes) -> Blocks:
    codes = _fields(_integers(blocks, 4, 20), 16, 4, [0, 4])
    return Blocks(codes, _halves(blocks, 0), _ones(blocks), _halves(blocks, 2), _ones(blocks))


def _fifth_bits(words: Integers) -> Integers:
    return (words[:, None] >> np.arange(32) & 1) << 4


def _q5_0(blocks: Bytes) -> Blocks:
    codes = _fields(_integers(blocks, 6, 22), 16, 4, [0, 4]) | _fifth_bits(_words(blocks, 2, "<u4"))
    return Blocks(codes - 16, _halves(blocks, 0), _ones(blocks))


def _q5_1(blocks: Bytes) -> Blocks:
    codes = _fields(_integers(blocks, 8, 24), 16, 4, [0, 4]) | _fifth_bits(_words(blocks, 4, "<u4"))
    return Blocks(codes, _halves(blocks, 0), _ones(blocks), _halves(blocks, 2), _ones(blocks))


def _iq4_nl(blocks: Bytes) -> Blocks:
    codes = CODEBOOK[_fields(_integers(blocks, 2, 18), 16, 4, [0, 4])]
    return Blocks(codes, _halves(blocks, 0), _ones(blocks))


def _q2_k(blocks: Bytes) -> Blocks:
    factors = _integers(blocks, 0, 16)
    codes = _fields(_integers(blocks, 16, 80), 32, 2, [0, 2, 4, 6])
    return Blocks(codes, _halves(blocks, 80), factors & 15, _halves(blocks, 82), -(factors >> 4))


def _q3_k(blocks: Bytes) -> Blocks:
    high = _fields(_integers(blocks, 0, 32), 32, 1, list(range(8)))
    low = _fields(_integers(blocks, 32, 96), 32, 2, [0, 2, 4, 6])
    low_scales = _fields(_integers(blocks, 96, 104), 8, 4, [0, 4])
    high_scales = _fields(_integers(blocks, 104, 108), 4, 2, [0, 2, 4, 6])
    return Blocks((low | high << 2) - 4, _halves(blocks, 108), (low_scales | high_scales << 4) - 32)


def _six_bit_factors(words: Integers) -> tuple[Integers, Integers]:
    """Eight scales and eight minima of 6 bits; the last four of each have their high bits in the first 8 bytes."""
    a, b, c = words[:, 0:4], words[:, 4:8], words[:, 8:12]
    scales = np.concatenate([a & 63, c & 15 | (a >> 6) << 4], axis=1)
    minima = np.concatenate([b & 63, c >> 4 | (b >> 6) << 4], axis=1)
    return scales, minima


def _q4_k(blocks: Bytes) -> Blocks:
    scales, minima = _six_bit_factors(_integers(blocks, 4, 16))
    codes = _fields(_integers(blocks, 16, 144), 32, 4, [0, 4])
    return Blocks(codes, _halves(blocks, 0), scales, _halves(blocks, 2), -minima)


def _q5_k(blocks: Bytes) -> Blocks:
    scales, minima = _six_bit_factors(_integers(blocks, 4, 16))
    high = _fields(_integers(blocks, 16, 48), 32, 1, list(range(8)))
    codes = _fields(_integers(blocks, 48, 176), 32, 4, [0, 4]) | high << 4
    return Blocks(codes, _halves(blocks, 0), scales, _halves(blocks, 2), -minima)


def _q6_k(blocks: Bytes) -> Blocks:
    low = _fields(_integers(blocks, 0, 128), 64, 4, [0, 4])
    high = _fields(_integers(blocks, 128, 192), 32, 2, [0, 2, 4, 6])
    scales = np.ascontiguousarray(blocks[:, 192:208]).view(np.int8).astype(np.int64)
    return Blocks((low | high << 4) - 32, _halves(blocks, 208), scales)


def _iq4_xs(blocks: Bytes) -> Blocks:
    low_scales = _fields(_integers(blocks, 4, 8), 1, 4, [0, 4])
    high_scales = _words(blocks, 2, "<u2")[:, None] >> 2 * np.arange(8) & 3
    codes = CODEBOOK[_fields(_integers(blocks, 8, 136), 16, 4, [0, 4])]
    return Blocks(codes, _halves(blocks, 0), (low_scales | high_scales << 4) - 32)


@dataclass(frozen=True)
class QuantizedType:
    """How large a type's blocks are, and how they are taken apart."""

    block_size: int
    block_bytes: int
    take_apart: Callable[[Bytes], Blocks]


TYPES = {
    "q8_0": QuantizedType(32, 34, _q8_0),
    "q4_0": QuantizedType(32, 18, _q4_0),
    "q4_1": QuantizedType(32, 20, _q4_1),
    "q5_0": QuantizedType(32, 22, _q5_0),
    "q5_1": QuantizedType(32, 24, _q5_1),
    "q2_k": QuantizedType(256, 84, _q2_k),
    "q3_k": QuantizedType(256, 110, _q3_k),
    "q4_k": QuantizedType(256, 144, _q4_k),
    "q5_k": QuantizedType(256, 176, _q5_k),
    "q6_k": QuantizedType(256, 210, _q6_k),
    "iq4_nl": QuantizedType(32, 18, _iq4_nl),
    "iq4_xs": QuantizedType(256, 136, _iq4_xs),
}


def row_bytes(dtype: str, in_features: int) -> int:
    """Bytes of one row."""
    return in_features // TYPES[dtype].block_size * TYPES[dtype].block_bytes


def _taken_apart(dtype: str, rows: Bytes) -> Blocks:
    return TYPES[dtype].take_apart(np.ascontiguousarray(rows).reshape(-1, TYPES[dtype].block_bytes))


def dequantize(dtype: str, rows: Bytes) -> Floats:
    """uint8 [n, row_bytes] -> [n, K]: (block scale * scale) * code + block minimum * minimum."""
    blocks = _taken_apart(dtype, rows)
    codes = blocks.codes.reshape(*blocks.scales.shape, -1).astype(np.float32)
    scales = blocks.block_scales[:, None] * blocks.scales.astype(np.float32)
    values: Floats = scales[:, :, None] * codes
    if blocks.block_minima is not None and blocks.minima is not None:
        values = values + (blocks.block_minima[:, None] * blocks.minima.astype(np.float32))[:, :, None]
    return values.reshape(len(rows), -1)


def quantize_activations(x: Floats, group_size: int) -> tuple[Integers, Floats]:
    """[M, K] -> codes [M, K / group, group] in -127..127, scales [M, K / group].

    The scale is the group's largest magnitude / 127; a code is x * (127 / largest magnitude), rounded to nearest even.
    A group with an infinity or NaN has the scale NaN and codes 0; one whose scale is below 2^-126 is zero.
    """
    groups = x.reshape(len(x), x.shape[1] // group_size, group_size)
    is_finite = np.isfinite(groups).all(axis=2)
    largest = np.where(is_finite, np.abs(groups).max(axis=2), np.float32(0))
    scales = largest / np.float32(127)
    has_codes = scales >= np.finfo(np.float32).tiny
    factors = np.float32(127) / np.where(has_codes, largest, np.float32(1))
    codes = np.rint(np.where(has_codes[:, :, None], groups, np.float32(0)) * factors[:, :, None]).astype(np.int64)
    return codes, np.where(has_codes, scales, np.where(is_finite, np.float32(0), np.float32(np.nan)))


def matmul(x: Floats, dtype: str, rows: Bytes) -> Floats:
    """x[M, K] @ dequantize(dtype, rows)[N, K].T, x quantised by groups of a block's size.

    Sums within a block are exact integers; block by block, in order, they are scaled and added by FMA, from zero.
    """
    block_size = TYPES[dtype].block_size
    codes, scales = quantize_activations(x, block_size)
    blocks = _taken_apart(dtype, rows)
    total = np.zeros((len(x), len(rows)), np.float32)
    for index in range(x.shape[1] // block_size):
        of_rows = slice(index, None, x.shape[1] // block_size)
        total = _add_block(total, codes[:, index], scales[:, index, None], _select(blocks, of_rows))
    return total


def _select(blocks: Blocks, which: slice) -> Blocks:
    return Blocks(
        blocks.codes[which],
        blocks.block_scales[which],
        blocks.scales[which],
        None if blocks.block_minima is None else blocks.block_minima[which],
        None if blocks.minima is None else blocks.minima[which],
    )


def _add_block(total: Floats, codes: Integers, scale: Floats, blocks: Blocks) -> Floats:
    """codes [M, block size] and scale [M, 1] of one group of activations, times one block of each weight row."""
    sub_blocks = blocks.scales.shape[1]
    scaled_codes = blocks.codes * np.repeat(blocks.scales, blocks.codes.shape[1] // sub_blocks, axis=1)
    total = fma(blocks.block_scales * scale, (codes @ scaled_codes.T).astype(np.float32), total)
    if blocks.block_minima is None or blocks.minima is None:
        return total
    sums = codes.reshape(len(codes), sub_blocks, codes.shape[1] // sub_blocks).sum(axis=2)
    if sub_blocks == 1:
        return fma(np.broadcast_to(blocks.block_minima, total.shape), scale * sums.astype(np.float32), total)
    return fma(blocks.block_minima * scale, (sums @ blocks.minima.T).astype(np.float32), total)
