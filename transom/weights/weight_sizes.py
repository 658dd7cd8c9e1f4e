"""What weights take in RAM, before they are loaded, or where there are none.

`WeightSizes` is a loader that adds up what a `WeightLoader` would hand out; `ClaimedWeights` are the tensors of a model
of which there is nothing but its configuration. Reads headers alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from transom.errors import WeightsError
from transom.kernels import PackedMatrix, packed_bytes
from transom.weights.ggml_types import type_named
from transom.weights.loader import WeightLoader, WeightSource
from transom.weights.tensor_info import TensorInfo
from transom.weights.weight_check import WeightCheck

if TYPE_CHECKING:
    from transom.kernels._native import WeightDtype

__all__ = ["ClaimedWeights", "Claims", "MatrixSize", "WeightSizes"]

MAX_CLAIMED_TENSORS = 2**18
"""More than any published model has; a configuration may claim any number."""

_FLOAT_BYTES = 4
_EMBEDDING = "model.embed_tokens.weight"


@dataclass(frozen=True, slots=True)
class MatrixSize:
    """One matrix in RAM: neighbouring tensors of one type."""

    name: str
    """Of its first tensor."""
    dtype: WeightDtype
    out_features: int
    in_features: int
    num_bytes: int


class WeightSizes(WeightCheck):
    """What a model's weights take once they are loaded, by headers alone. `problems` as `WeightCheck` finds them.

    `num_bytes` is what it is of the `WeightLoader` that has loaded them.
    """

    def __init__(self, source: WeightSource) -> None:
        super().__init__(source)
        self.matrices: list[MatrixSize] = []

    def vector(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """As `WeightCheck.vector`."""
        zero = super().vector(name, shape)
        self.num_bytes += _FLOAT_BYTES * int(np.prod(shape, dtype=np.int64))
        return zero

    def matrix(self, parts: Mapping[str, int], in_features: int) -> tuple[PackedMatrix, ...]:
        """As `WeightCheck.matrix`."""
        small = super().matrix(parts, in_features)
        if not self.problems:
            for dtype, group in itertools.groupby(parts.items(), lambda part: self._dtype(part[0])):
                self._add(dtype, dict(group), in_features)
        return small

    def _add(self, dtype: WeightDtype, parts: Mapping[str, int], in_features: int) -> None:
        name, num_rows = next(iter(parts)), sum(parts.values())
        try:
            num_bytes = packed_bytes(num_rows, in_features, dtype)
        except MemoryError:
            self.problems.append(f"tensor {name!r} is larger than any memory: [{num_rows}, {in_features}]")
            return
        self.num_bytes += num_bytes
        self.matrices.append(MatrixSize(name, dtype, num_rows, in_features, num_bytes))


class ClaimedWeights:
    """A source of weights, all of one type, of which nothing is known but names and shapes."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], dtype: str) -> None:
        self._shapes = shapes
        self._dtype = dtype

    def names(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(self._shapes)

    def info(self, name: str) -> TensorInfo:
        """WeightsError for an unknown name."""
        if name not in self._shapes:
            raise WeightsError(f"tensor {name!r} is missing")
        shape = self._shapes[name]
        num_elements = int(np.prod(shape[:-1], dtype=np.int64)) if shape else 1
        num_bytes = num_elements * type_named(self._dtype).row_bytes(shape[-1] if shape else 1)
        return TensorInfo(self._dtype, shape, 0, num_bytes)

    def tensor(self, name: str) -> NDArray[Any]:
        """There is none: WeightsError."""
        raise WeightsError(f"tensor {name!r} is not there: a configuration alone has no weights")

    def rows(self, name: str, begin: int, end: int) -> NDArray[Any]:
        """As `tensor`."""
        return self.tensor(name)[begin:end]

    def release(self, name: str) -> None:
        """Nothing was read."""

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(self.info(name).nbytes for name in self._shapes)


class Claims(WeightLoader):
    """Notes what a model asks for, as if a checkpoint had it as its family usually writes it."""

    def __init__(self) -> None:
        super().__init__(ClaimedWeights({}, "F32"))
        self.shapes: dict[str, tuple[int, ...]] = {}

    def has(self, name: str) -> bool:
        """Tied embeddings lie under the first of their names, everything else where it is looked for first."""
        return name == _EMBEDDING

    def vector(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """A zero in as many dimensions."""
        self._note(name, shape)
        return np.zeros((1,) * len(shape), np.float32)

    def matrix(self, parts: Mapping[str, int], in_features: int) -> tuple[PackedMatrix, ...]:
        """A matrix of another shape."""
        for name, rows in parts.items():
            self._note(name, (rows, in_features))
        return (PackedMatrix(1, 1, "f32"),)

    def finish(self, ignored: Iterable[str] = ()) -> None:
        """There is nothing that nobody asked for."""

    def _note(self, name: str, shape: tuple[int, ...]) -> None:
        if len(self.shapes) >= MAX_CLAIMED_TENSORS:
            raise WeightsError(f"the configuration claims more than {MAX_CLAIMED_TENSORS} tensors")
        self.shapes[name] = shape
