"""`WeightLoader`: what models build themselves from. Strict: every tensor is asked for once, by name and shape.

Owns the conversion from a checkpoint's tensors to kernel operands and the bookkeeping of what was used. Knows no
architecture and no file format beyond `Checkpoint`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from transom.errors import WeightsError
from transom.kernels import PackedMatrix
from transom.weights.safetensors_header import TensorInfo

__all__ = ["WeightLoader", "WeightSource"]

KernelDtype = Literal["f32", "f16", "bf16"]

_KERNEL_DTYPES: dict[str, KernelDtype] = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
_ROWS_AT_ONCE = 1024  # a multiple of the panel height; bounds the memory that conversion takes
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
        """A view; bf16 as uint16."""
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

    def has(self, name: str) -> bool:
        """Whether the checkpoint holds the tensor: tied embeddings lie there under either of their two names."""
        return name in self._names

    def are_equal(self, first: str, second: str) -> bool:
        """Whether two tensors of the checkpoint have the same type, shape and values. Reads both."""
        same_form = self._source.info(first) == self._source.info(second)
        equal = same_form and np.array_equal(self._source.tensor(first), self._source.tensor(second))
        self._source.release(first)
        self._source.release(second)
        return equal

    def vector(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """A small tensor (norm, bias) as a fresh f32 array of `shape`. Raises WeightsError naming the tensor."""
        self._check(name, shape)
        values = _as_dtype(self._source.tensor(name), self._dtype(name), "f32").copy()
        self._finish_tensor(name)
        return values

    def matrix(self, parts: Mapping[str, int], in_features: int) -> PackedMatrix:
        """Tensors [rows, in_features], stacked by rows in the order of `parts` (name -> rows), packed for `matmul`.

        The checkpoint's width is kept; parts of different types become f32, which holds them all exactly. The memory
        of the mapped file is given back tensor by tensor. Raises WeightsError naming the tensor.
        """
        for name, rows in parts.items():
            self._check(name, (rows, in_features))
        dtypes = {self._dtype(name) for name in parts}
        packed = PackedMatrix(sum(parts.values()), in_features, dtypes.pop() if len(dtypes) == 1 else "f32")
        first_row = 0
        for name, rows in parts.items():
            self._fill(packed, first_row, name)
            first_row += rows
        return packed

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

    def _dtype(self, name: str) -> KernelDtype:
        dtype = self._source.info(name).dtype
        if dtype not in _KERNEL_DTYPES:
            raise WeightsError(f"tensor {name!r} is of type {dtype}; supported: {', '.join(_KERNEL_DTYPES)}")
        return _KERNEL_DTYPES[dtype]

    def _fill(self, packed: PackedMatrix, first_row: int, name: str) -> None:
        values, dtype = self._source.tensor(name), self._dtype(name)
        for row in range(0, len(values), _ROWS_AT_ONCE):
            packed.fill(first_row + row, _as_dtype(values[row : row + _ROWS_AT_ONCE], dtype, packed.dtype))
        self._finish_tensor(name)

    def _finish_tensor(self, name: str) -> None:
        self._source.release(name)
        self._unused.discard(name)
        self._done_bytes += self._source.info(name).nbytes
        self._progress(self._done_bytes, self._total_bytes)


def _as_dtype(values: NDArray[Any], dtype: KernelDtype, wanted: str) -> NDArray[Any]:
    """The same numbers as `wanted`, exactly; aligned, contiguous, a copy only where needed."""
    if dtype == wanted:
        return np.require(values, requirements=["C", "A"])
    if dtype == "bf16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)
