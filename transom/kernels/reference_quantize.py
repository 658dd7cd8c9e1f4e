"""How float32 weights become blocks of few bits, in NumPy: specification and oracle of `transom.kernels.quantize`.

Every operation rounds to float32 as the native one does, in the same order, so native results are *equal*. Layouts of
blocks are those of the GGUF specification (ggml), which defines the bits of `q8_0` and `q4_0`. The K types leave it to
the writer which levels to choose; here the sum of weight * error^2 is minimised, where an element's weight is its
magnitude plus the root mean square of its sub-block: large elements matter more, small ones still matter.

* Per sub-block, scale (and offset) are those of the best of `CANDIDATES` ways to round: each spreads the values over a
  few levels more or less than there are, and takes the least-squares scale and offset for the levels that result.
* A superblock stores the scales (and offsets) of its sub-blocks as small integers. Each pair is chosen among its
  neighbours by the error that is left after rounding with the numbers as stored.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_MAGNITUDE", "QUANTIZED_TYPES", "QuantizedType", "quantize"]

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

MAX_MAGNITUDE = np.float32(2**18)
"""Elements must be smaller: beyond, the scales of some type would not fit their 16 bits."""

CANDIDATES = np.linspace(-2.0, 0.8, 15).astype(np.float32)
"""How many levels more than there are a candidate spreads the values over."""
NEIGHBOURS = (0, -1, 1)

_TINY = np.float32(1e-20)  # sub-blocks without any larger element are zero; keeps every quotient below finite


class QuantizedType(NamedTuple):
    """Elements and bytes of a block, and what makes bytes of blocks [n, elements]."""

    elements: int
    bytes: int
    quantize: Callable[[Floats], Bytes]


def quantize(dtype: str, weight: Floats) -> Bytes:
    """Rows [n, K] -> [n, bytes of a row]. ValueError as the native function."""
    if dtype not in QUANTIZED_TYPES:
        raise ValueError(f"cannot quantize to {dtype!r}; known: {', '.join(QUANTIZED_TYPES)}")
    kind = QUANTIZED_TYPES[dtype]
    num_rows, width = weight.shape
    if width % kind.elements:
        raise ValueError(f"rows of {width} elements are no multiple of {dtype}'s block of {kind.elements}")
    bad_rows = np.flatnonzero(~(np.abs(weight) < MAX_MAGNITUDE).all(axis=1))
    if len(bad_rows):
        raise ValueError(f"row {bad_rows[0]} holds NaN, infinity or a magnitude of {MAX_MAGNITUDE:.0f} or more")
    return kind.quantize(weight.reshape(-1, kind.elements)).reshape(num_rows, width // kind.elements * kind.bytes)


# ---- blocks of 32 with one scale


def _round_half_away(x: Floats) -> Floats:
    """As C's roundf. Adding 0.5 before rounding down would itself round up just below a half."""
    magnitude = np.abs(x)
    whole = np.floor(magnitude)
    rounded: Floats = np.copysign(whole + np.floor(np.float32(2) * (magnitude - whole)), x)
    return rounded


def _reciprocal(scale: Floats) -> Floats:
    """1 / scale, and 0 where the scale is 0 or so small that its reciprocal is not finite."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / scale
    return np.where(np.isfinite(inverse), inverse, np.float32(0))


def _q8_0(x: Floats) -> Bytes:
    """f16 scale, 32 x int8."""
    scale = np.abs(x).max(axis=1, keepdims=True) / np.float32(127)
    levels = _round_half_away(x * _reciprocal(scale))
    return np.concatenate([_f16_bytes(scale), levels.astype(np.int8).view(np.uint8)], axis=1)


def _q4_0(x: Floats) -> Bytes:
    """f16 scale, 32 nibbles: elements 0..15 in the low halves, 16..31 in the high ones; level 8 is zero."""
    scale = _first_largest(x) / np.float32(-8)
    levels = np.clip(np.trunc(x * _reciprocal(scale) + np.float32(8.5)), 0, 15).astype(np.uint8)
    return np.concatenate([_f16_bytes(scale), levels[:, :16] | levels[:, 16:] << 4], axis=1)


def _first_largest(x: Floats) -> Floats:
    """[S, n] -> [S, 1]: the first of the elements of largest magnitude, with its sign."""
    return np.take_along_axis(x, np.abs(x).argmax(axis=1, keepdims=True), axis=1)


def _f16_bytes(scale: Floats) -> Bytes:
    return scale.astype(np.float16).view(np.uint8)


# ---- superblocks of 256: sub-blocks with integer scales, and a common factor for these


def _sum(values: Floats) -> Floats:
    """[..., n] -> [...], in the order of the elements."""
    total = np.zeros(values.shape[:-1], np.float32)
    for index in range(values.shape[-1]):
        total = total + values[..., index]
    return total


def _importance(x: Floats) -> Floats:
    root_mean_square = np.sqrt(_sum(x * x) / np.float32(x.shape[-1]))
    importance: Floats = np.abs(x) + root_mean_square[..., None]
    return importance


def _clip(values: Floats, low: int, high: int) -> Floats:
    clipped: Floats = np.minimum(np.maximum(values, np.float32(low)), np.float32(high))
    return clipped


def _rounded_to_f16(values: Floats) -> Floats:
    return values.astype(np.float16).astype(np.float32)


def _fit_scale_and_offset(x: Floats, weight: Floats, top: int) -> tuple[Floats, Floats]:
    """The (scale, offset), both >= 0, of the best candidate: x is about scale * level - offset, level in 0..top."""
    low = np.minimum(x.min(axis=-1), np.float32(0))
    width = np.maximum(x.max(axis=-1) - low, _TINY)
    sum_w, sum_x = np.maximum(_sum(weight), _TINY), _sum(weight * x)
    best_error = np.full(low.shape, np.inf, np.float32)
    best_scale, best_offset = np.zeros_like(low), np.zeros_like(low)
    for candidate in CANDIDATES:
        inverse = (np.float32(top) + candidate) / width
        levels = np.minimum(np.rint((x - low[..., None]) * inverse[..., None]), np.float32(top))
        weighted = weight * levels
        sum_l, sum_ll, sum_xl = _sum(weighted), _sum(weighted * levels), _sum(weighted * x)
        scale, offset = _solve(sum_w, sum_l, sum_ll, sum_x, sum_xl)
        # the sum of weight * (scale * level - offset - x)^2, less that of weight * x^2
        error = scale * (scale * sum_ll - np.float32(2) * (sum_xl + offset * sum_l))
        error = error + offset * (offset * sum_w + np.float32(2) * sum_x)
        better = error < best_error
        best_error = np.where(better, error, best_error)
        best_scale, best_offset = np.where(better, scale, best_scale), np.where(better, offset, best_offset)
    return best_scale, best_offset


def _solve(sum_w: Floats, sum_l: Floats, sum_ll: Floats, sum_x: Floats, sum_xl: Floats) -> tuple[Floats, Floats]:
    """Least squares for scale and offset; where all levels are the same, for the offset alone. Negative becomes 0."""
    both = sum_w * sum_ll
    determinant = both - sum_l * sum_l
    with np.errstate(divide="ignore", invalid="ignore"):
        solved = (sum_l * sum_xl - sum_ll * sum_x) / determinant
    offset = np.where(both * np.float32(1e-5) < determinant, solved, (np.float32(0) - sum_x) / sum_w)
    offset = np.where(offset > 0, offset, np.float32(0))
    scale = (sum_xl + offset * sum_l) / np.maximum(sum_ll, _TINY)
    return np.where(scale > 0, scale, np.float32(0)), offset


def _levels_with_offset(x: Floats, scale: Floats, offset: Floats, top: int) -> Floats:
    return _clip(np.rint((x + offset[..., None]) * _reciprocal(scale)[..., None]), 0, top)


def _choose_with_offset(x: Floats, top: int) -> tuple[Floats, Floats, Bytes, Bytes, Bytes]:
    """Superblocks x [B, 8, 32] -> factors [B] of scales and offsets, these [B, 8] in 0..63, levels [B, 8, 32]."""
    weight = _importance(x)
    scale, offset = _fit_scale_and_offset(x, weight, top)
    factors = [_rounded_to_f16(values.max(axis=1, keepdims=True) / np.float32(63)) for values in (scale, offset)]
    first = [np.rint(v * _reciprocal(f)) for v, f in zip((scale, offset), factors, strict=True)]
    best_error = np.full(scale.shape, np.inf, np.float32)
    best = [np.zeros_like(scale), np.zeros_like(offset)]
    for steps in product(NEIGHBOURS, NEIGHBOURS):
        stored = [_clip(v + np.float32(step), 0, 63) for v, step in zip(first, steps, strict=True)]
        real_scale, real_offset = stored[0] * factors[0], stored[1] * factors[1]
        levels = _levels_with_offset(x, real_scale, real_offset, top)
        difference = levels * real_scale[..., None] - real_offset[..., None] - x
        error = _sum(weight * difference * difference)
        better = error < best_error
        best_error = np.where(better, error, best_error)
        best = [np.where(better, new, old) for new, old in zip(stored, best, strict=True)]
    levels = _levels_with_offset(x, best[0] * factors[0], best[1] * factors[1], top)
    scales, offsets = (each.astype(np.uint8) for each in best)
    return factors[0], factors[1], scales, offsets, levels.astype(np.uint8)


def _pack_six_bits(scales: Bytes, offsets: Bytes) -> Bytes:
    """2 x [B, 8] in 0..63 -> [B, 12]: the first four of each whole, the others' low and high bits apart."""
    return np.concatenate(
        [
            scales[:, :4] | scales[:, 4:] >> 4 << 6,
            offsets[:, :4] | offsets[:, 4:] >> 4 << 6,
            scales[:, 4:] & 15 | (offsets[:, 4:] & 15) << 4,
        ],
        axis=1,
    )


def _with_offset(x: Floats, top: int) -> Bytes:
    """q4_k: two f16 factors, 12 bytes of scales and offsets, nibbles; q5_k: and before these, the fifth bits."""
    scale_factor, offset_factor, scales, offsets, levels = _choose_with_offset(x.reshape(-1, 8, 32), top)
    pairs = levels.reshape(-1, 4, 2, 32)  # the low and the high nibbles of 32 bytes
    nibbles = (pairs[:, :, 0] & 15 | (pairs[:, :, 1] & 15) << 4).reshape(-1, 128)
    parts = [_f16_bytes(scale_factor), _f16_bytes(offset_factor), _pack_six_bits(scales, offsets)]
    if top > 15:
        parts.append(np.packbits(levels >> 4, axis=1, bitorder="little")[:, 0])
    return np.concatenate([*parts, nibbles], axis=1)


def _fit_scale(x: Floats, weight: Floats) -> Floats:
    """The scale of the best candidate: x is about scale * level, level in -32..31, the largest element at -32."""
    largest = np.take_along_axis(x, np.abs(x).argmax(axis=-1, keepdims=True), axis=-1)[..., 0]
    turned = _reciprocal(np.where(np.abs(largest) > _TINY, largest, np.float32(0)))
    best_gain, best_scale = np.zeros_like(largest), np.zeros_like(largest)
    for candidate in CANDIDATES:
        inverse = (np.float32(-32) - candidate) * turned
        levels = _clip(np.rint(x * inverse[..., None]), -32, 31)
        weighted = weight * levels
        sum_ll, sum_xl = np.maximum(_sum(weighted * levels), _TINY), _sum(weighted * x)
        scale = sum_xl / sum_ll
        gain = scale * sum_xl  # how much less than the sum of weight * x^2 is left as error
        better = gain > best_gain
        best_gain, best_scale = np.where(better, gain, best_gain), np.where(better, scale, best_scale)
    return best_scale


def _levels_of_q6_k(x: Floats, scale: Floats) -> Floats:
    return _clip(np.rint(x * _reciprocal(scale)[..., None]), -32, 31)


def _q6_k(x: Floats) -> Bytes:
    """Low nibbles, high bit pairs, 16 x int8 scales, f16 factor."""
    x = x.reshape(-1, 16, 16)
    weight = _importance(x)
    scale = _fit_scale(x, weight)
    factor = _rounded_to_f16(_first_largest(scale) / np.float32(-128))
    first = np.rint(scale * _reciprocal(factor))
    best_error, best = np.full(scale.shape, np.inf, np.float32), np.zeros_like(scale)
    for step in NEIGHBOURS:
        stored = _clip(first + np.float32(step), -128, 127)
        real_scale = stored * factor
        difference = _levels_of_q6_k(x, real_scale) * real_scale[..., None] - x
        error = _sum(weight * difference * difference)
        better = error < best_error
        best_error, best = np.where(better, error, best_error), np.where(better, stored, best)
    levels = (_levels_of_q6_k(x, best * factor) + np.float32(32)).astype(np.uint8)
    # of each half: 32 bytes of low nibbles for quarters 0 and 2, 32 for 1 and 3; then the bit pairs of all four
    quarters = levels.reshape(-1, 2, 4, 32)
    low = quarters[:, :, :2] & 15 | (quarters[:, :, 2:] & 15) << 4
    high = np.bitwise_or.reduce(quarters >> 4 << np.array([0, 2, 4, 6], np.uint8)[:, None], axis=2)
    scales = best.astype(np.int8).view(np.uint8)
    return np.concatenate([low.reshape(-1, 128), high.reshape(-1, 64), scales, _f16_bytes(factor)], axis=1)


QUANTIZED_TYPES = {
    "q8_0": QuantizedType(32, 34, _q8_0),
    "q4_0": QuantizedType(32, 18, _q4_0),
    "q4_k": QuantizedType(256, 144, partial(_with_offset, top=15)),
    "q5_k": QuantizedType(256, 176, partial(_with_offset, top=31)),
    "q6_k": QuantizedType(256, 210, _q6_k),
}
