"""`WeightLoader`: what models build themselves from. Strict: every tensor is asked for once, by name and shape.

Owns the conversion from a checkpoint's tensors to kernel operands and the bookkeeping of what was used. Knows no
architecture and no file format: tensors come from a `WeightSource`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from transom.errors import WeightsError
from transom.kernels import PackedMatrix
from transom.weights.tensor_info import TensorInfo

if TYPE_CHECKING:
    from transom.kernels._native import WeightDtype

__all__ = ["BLOCKS", "WeightLoader", "WeightSource"]

_FLOATS = ("F32", "F16", "BF16")
BLOCKS = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS")
_KERNEL_DTYPES = {name: cast("WeightDtype", name.lower()) for name in (*_FLOATS, *BLOCKS)}
_ROWS_AT_ONCE = 1024  # a multiple of the panel height; bounds the memory that a file's pages and copies take
_NAMES_SHOWN = 5


class WeightSource(Protocol):
    """Named tensors, as `Checkpoint` has them."""

    def names(self) -> tuple[str, ...]:
        """All of them."""
        ...

    def info(self, name: str) -> TensorInfo:
        """dtype and shape; WeightsError for an unknown name."""
        ...

    def tensor(self, name: str) -> NDArray[Any]:
        """A view, or a copy; bf16 as uint16, types of blocks as the bytes of each row, uint8[rows, row_bytes]."""
        ...

    def rows(self, name: str, begin: int, end: int) -> NDArray[Any]:
        """Rows `begin .. end` of `tensor(name)`."""
        ...

    def release(self, name: str) -> None:
        """The view was read; its memory may go."""
        ...


def _ignore_progress(done_bytes: int, total_bytes: int) -> None:
    """Nobody is watching."""


class WeightLoader:
    """Hands out a checkpoint's tensors in kernel form, once each. Not for use from several threads.

    `progress(done_bytes, total_bytes)` is called after every tensor.
    """

    def __init__(self, source: WeightSource, progress: Callable[[int, int], None] = _ignore_progress) -> None:
        self._source = source
        self._progress = progress
        self._names = frozenset(source.names())
        self._unused = set(self._names)
        self._total_bytes = sum(source.info(name).nbytes for name in self._names)
        self._done_bytes = 0
        self.num_bytes = 0
        """What was handed out so far takes in RAM."""

    def has(self, name: str) -> bool:
        """Whether the checkpoint holds the tensor: tied embeddings lie there under either of their two names."""
        return name in self._names

    def are_equal(self, first: str, second: str) -> bool:
        """Whether two tensors of the checkpoint have the same type, shape and values. Reads both."""
        mine, other = self._source.info(first), self._source.info(second)
        return (mine.dtype, mine.shape) == (other.dtype, other.shape) and all(
            np.array_equal(a, b) for a, b in zip(self._pieces(first), self._pieces(second), strict=True)
        )

    def vector(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """A small tensor (norm, bias) as a fresh f32 array of `shape`. Raises WeightsError naming the tensor."""
        self._check(name, shape)
        if (dtype := self._source.info(name).dtype) not in _FLOATS:
            raise _unsupported(name, dtype, _FLOATS)
        values = _widened(self._source.tensor(name))
        self._finish_tensor(name)
        self.num_bytes += values.nbytes
        return values

    def matrix(self, parts: Mapping[str, int], in_features: int) -> tuple[PackedMatrix, ...]:
        """Tensors [rows, in_features], stacked by rows in the order of `parts` (name -> rows), packed for `matmul`.

        Every part keeps its type; neighbours of one type are one matrix. The memory of the mapped file is given back
        piece by piece. Raises WeightsError naming the tensor.
        """
        for name, rows in parts.items():
            self._check(name, (rows, in_features))
        by_type = itertools.groupby(parts.items(), lambda part: self._dtype(part[0]))
        return tuple(self._packed(dtype, dict(group), in_features) for dtype, group in by_type)

    def finish(self, ignored: Iterable[str] = ()) -> None:
        """Raises WeightsError for tensors nobody asked for, but those `ignored`: they mean the model is another one."""
        unexpected = sorted(self._unused.difference(ignored))
        if unexpected:
            shown = ", ".join(unexpected[:_NAMES_SHOWN]) + (", ..." if len(unexpected) > _NAMES_SHOWN else "")
            raise WeightsError(f"the checkpoint holds {len(unexpected)} tensors that the model does not have: {shown}")

    def _check(self, name: str, shape: tuple[int, ...]) -> None:
        found = self._source.info(name)
        if found.shape != shape:
            raise WeightsError(f"tensor {name!r} has shape {list(found.shape)}, the model needs {list(shape)}")
        self._dtype(name)

    def _dtype(self, name: str) -> WeightDtype:
        dtype = self._source.info(name).dtype
        if dtype not in _KERNEL_DTYPES:
            raise _unsupported(name, dtype, _KERNEL_DTYPES)
        return _KERNEL_DTYPES[dtype]

    def _packed(self, dtype: WeightDtype, parts: Mapping[str, int], in_features: int) -> PackedMatrix:
        packed = PackedMatrix(sum(parts.values()), in_features, dtype)
        row = 0
        for name in parts:
            for piece in self._pieces(name):
                packed.fill(row, piece)
                row += len(piece)
            self._finish_tensor(name)
        self.num_bytes += packed.nbytes
        return packed

    def _pieces(self, name: str) -> Iterator[NDArray[Any]]:
        """A matrix from its first row to its last; what was read may leave memory before the next piece is."""
        num_rows = self._source.info(name).shape[0]
        for row in range(0, num_rows, _ROWS_AT_ONCE):
            values = self._source.rows(name, row, min(row + _ROWS_AT_ONCE, num_rows))
            yield np.require(values, requirements=["C", "A"])
            self._source.release(name)

    def _finish_tensor(self, name: str) -> None:
        self._source.release(name)
        self._unused.discard(name)
        self._done_bytes += self._source.info(name).nbytes
        self._progress(self._done_bytes, self._total_bytes)


def _widened(values: NDArray[Any]) -> NDArray[np.float32]:
    """The same numbers as a fresh array of f32; bf16 comes as uint16."""
    if values.dtype == np.uint16:
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def _unsupported(name: str, dtype: str, supported: Iterable[str]) -> WeightsError:
    return WeightsError(f"tensor {name!r} is of type {dtype}; supported here: {', '.join(supported)}")
