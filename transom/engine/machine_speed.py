"""How fast this machine computes: short measurements of memory, of products by type of weights, of attention, of steps.

Each takes a tenth of a second or some, and as much memory as a few times the last cache, with the very kernels that
serve. Results are plain data; who keeps them, and for how long, is not known here. Nothing else should run meanwhile.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from transom import kernels
from transom.config.engine_config import BLOCK_SIZE

if TYPE_CHECKING:
    from transom.kernels._native import KVDtype, WeightDtype

__all__ = [
    "AttentionSpeed",
    "MatrixSpeed",
    "best_seconds",
    "last_cache_bytes",
    "measure_attention",
    "measure_matrix",
    "measure_memory",
]

MIB = 2**20

_LEAST_STREAM_BYTES = 64 * MIB
_MOST_STREAM_BYTES = 512 * MIB
_CACHE_TIMES = 2
"""So many times the last cache are read before the same bytes come again."""
_PIECE_BYTES = 4 * MIB
"""About a matrix of a layer."""
_CACHED_PIECES = 2
_IN_FEATURES = 2048
_PROMPT_ROWS = 512
_PROMPT_PIECES = 2
_PROMPT_DEPTH = 2048
_PROMPT_ATTENTION_ROWS = 128
_ATTENTION_DEPTH = 4096
_FILLING = 0x2C
"""Repeated, it is an ordinary small number in every float type."""
_ROUNDS = 7


@dataclass(frozen=True, slots=True)
class MatrixSpeed:
    """What products with weights of one type reach, all threads together."""

    bytes_per_second: float
    """One token: weights come from memory."""
    cached_bytes_per_second: float
    """One token, and the whole model fits into the last cache."""
    call_seconds: float
    """What each product takes beside its bytes."""
    multiply_adds_per_second: float
    """A prompt: many tokens with the same weights."""


@dataclass(frozen=True, slots=True)
class AttentionSpeed:
    """What attention reaches over one shape and type of keys and values, all threads together."""

    bytes_per_second: float
    """One token over many."""
    multiply_adds_per_second: float
    """A prompt."""


def measure_memory() -> float:
    """Bytes per second at which all threads read memory."""
    num_bytes = _stream_bytes()
    return max(kernels.measure_read_bandwidth(num_bytes) for _ in range(3))


def measure_matrix(dtype: WeightDtype) -> MatrixSpeed:
    """Of weights of one type. Takes about as much memory as `measure_memory`; MemoryError."""
    num_bytes = kernels.packed_bytes(16, _IN_FEATURES, dtype)
    rows_of_piece = max(1, _PIECE_BYTES // num_bytes) * 16
    pieces = [_matrix(rows_of_piece, dtype) for _ in range(max(4, _stream_bytes() // _PIECE_BYTES))]
    row = np.ones((1, _IN_FEATURES), np.float32)
    total = sum(piece.nbytes for piece in pieces)

    whole = best_seconds(lambda: kernels.matmul(row, pieces))
    one_by_one = best_seconds(lambda: _multiply_each(row, pieces))
    cached = best_seconds(lambda: _multiply_each(row, pieces[:_CACHED_PIECES]))
    call_seconds = max(0.0, one_by_one - whole) / (len(pieces) - 1)

    rows = np.ones((_PROMPT_ROWS, _IN_FEATURES), np.float32)
    prompt = best_seconds(lambda: kernels.matmul(rows, pieces[:_PROMPT_PIECES]), rounds=2)
    num_multiply_adds = _PROMPT_PIECES * rows_of_piece * _IN_FEATURES * _PROMPT_ROWS
    return MatrixSpeed(
        bytes_per_second=total / whole,
        cached_bytes_per_second=sum(piece.nbytes for piece in pieces[:_CACHED_PIECES]) / cached,
        call_seconds=call_seconds,
        multiply_adds_per_second=num_multiply_adds / prompt,
    )


def measure_attention(
    num_attention_heads: int, num_key_value_heads: int, head_dim: int, kv_dtype: KVDtype
) -> AttentionSpeed:
    """Of one shape of heads. Takes about as much memory as `measure_memory`; MemoryError."""
    layout = kernels.KVLayout(num_key_value_heads, head_dim, kv_dtype)
    num_blocks = max(1, min(_ATTENTION_DEPTH // BLOCK_SIZE, _MOST_STREAM_BYTES // layout.slot_bytes))
    num_layers = max(2, _stream_bytes() // (num_blocks * layout.slot_bytes))
    arena = kernels.allocate_arena(num_layers * num_blocks * layout.slot_bytes)
    arena[:] = _FILLING
    tables = np.arange(num_layers * num_blocks, dtype=np.int32).reshape(num_layers, 1, num_blocks)

    def attend(num_rows: int, depth: int, tables: Sequence[NDArray[np.int32]]) -> None:
        query = np.full((num_rows, num_attention_heads, head_dim), 0.01, np.float32)
        starts, first = np.array([0, num_rows], np.int32), np.array([depth - num_rows], np.int32)
        for table in tables:
            kernels.attend(arena, layout, table, starts, first, query, head_dim**-0.5)

    depth = num_blocks * BLOCK_SIZE
    one_token = best_seconds(lambda: attend(1, depth, list(tables)))
    prompt_depth = min(depth, _PROMPT_DEPTH)
    num_rows = min(_PROMPT_ATTENTION_ROWS, prompt_depth)
    prompt = best_seconds(lambda: attend(num_rows, prompt_depth, list(tables[:1])), rounds=3)
    visible = num_rows * (prompt_depth - num_rows / 2)
    return AttentionSpeed(
        bytes_per_second=arena.nbytes / one_token,
        multiply_adds_per_second=2 * visible * num_attention_heads * head_dim / prompt,
    )


def best_seconds(call: Callable[[], object], rounds: int = _ROUNDS) -> float:
    """The lower half of several rounds, in the middle: what interrupts now and then is left out, luck is, too."""
    call()
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return statistics.median(sorted(seconds)[: (rounds + 1) // 2])


def last_cache_bytes(directory: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int:
    """Of the largest cache of the processor; 32 MiB where the system does not tell."""
    sizes = []
    for path in directory.glob("index*/size"):
        text = path.read_text().strip()
        unit = {"K": 2**10, "M": MIB}.get(text[-1:], 1)
        sizes.append(int(text.rstrip("KM")) * unit)
    return max(sizes, default=32 * MIB)


def _stream_bytes() -> int:
    return min(_MOST_STREAM_BYTES, max(_LEAST_STREAM_BYTES, _CACHE_TIMES * last_cache_bytes()))


def _matrix(num_rows: int, dtype: WeightDtype) -> kernels.PackedMatrix:
    """Every byte is written: pages that nobody has written to are not read from memory."""
    matrix = kernels.PackedMatrix(num_rows, _IN_FEATURES, dtype)
    element = {"f32": np.float32, "f16": np.float16, "bf16": np.uint16}.get(dtype, np.uint8)
    row_bytes = kernels.row_bytes(dtype, _IN_FEATURES)
    filling = np.full((num_rows, row_bytes), _FILLING, np.uint8).view(element)
    matrix.fill(0, filling)
    return matrix


def _multiply_each(x: NDArray[np.float32], matrices: Sequence[kernels.PackedMatrix]) -> None:
    for matrix in matrices:
        kernels.matmul(x, matrix)
