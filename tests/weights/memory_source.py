"""Tensors in memory as a `WeightSource`."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from transom.weights.ggml_types import type_named
from transom.weights.tensor_info import TensorInfo


class MemorySource:
    """Arrays by name, each with the format's name of its type."""

    def __init__(self, tensors: dict[str, tuple[str, NDArray[Any]]]) -> None:
        self._tensors = tensors

    def names(self) -> tuple[str, ...]:
        return tuple(self._tensors)

    def info(self, name: str) -> TensorInfo:
        dtype, values = self._tensors[name]
        kind = type_named(dtype)
        columns = (
            values.shape[-1] if kind.element is not None else values.shape[-1] // kind.block_bytes * kind.block_size
        )
        return TensorInfo(dtype, (*values.shape[:-1], columns), 0, values.nbytes)

    def tensor(self, name: str) -> NDArray[Any]:
        return self._tensors[name][1]

    def rows(self, name: str, begin: int, end: int) -> NDArray[Any]:
        return self.tensor(name)[begin:end]

    def release(self, name: str) -> None:
        pass
