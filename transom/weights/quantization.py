"""Which type each tensor of a model gets, and tensors of that type, made of wider ones piece by piece.

Owns the recipes (`Q4_K_M`, ...) and the conversion of rows between types. Tensors are known by Hugging Face's names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from transom import kernels
from transom.errors import WeightsError
from transom.weights.ggml_types import type_named
from transom.weights.loader import BLOCKS, WeightSource
from transom.weights.tensor_info import TensorInfo

if TYPE_CHECKING:
    from transom.kernels._native import QuantizableDtype, QuantizedDtype

__all__ = ["RECIPES", "QuantizedSource", "TensorTypes", "converted"]

RECIPES = ("F32", "F16", "BF16", "Q8_0", "Q6_K", "Q4_K", "Q4_K_M")
"""Each is the type of all matrices but those that `TensorTypes` names."""

_FALLBACK = {"Q4_K": "Q8_0", "Q6_K": "Q8_0", "Q8_0": "F16"}
_FLOATS = ("F32", "F16", "BF16")
_LARGEST = {"F16": 65519.0, "BF16": 3.3895313e38}  # what rounds to a number
_LARGEST_QUANTIZED = 2.0**18  # what `kernels.quantize` refuses
_EXACT = (".mlp.gate.weight", ".block_sparse_moe.gate.weight", ".conv.conv.weight")
_ROWS_AT_ONCE = 1024
_LAYER = re.compile(r"model\.layers\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class TensorTypes:
    """The types of a recipe, as the ecosystem's files of that name have them, but for rows of odd length.

    Vectors stay F32, and so do convolutions and what chooses experts. With `Q4_K` and `Q4_K_M` the output matrix, which
    tied embeddings are, is Q6_K. With `Q4_K_M` so are, in the first and the last eighth of the layers and in every
    third between, the values of attention and the last product of the feed-forward part. Where rows are no whole
    blocks, K types give way to Q8_0, and that to F16.
    """

    recipe: str
    num_layers: int
    is_tied: bool

    @classmethod
    def of(cls, recipe: str, names: Iterable[str]) -> TensorTypes:
        """For a model with these tensors."""
        listed = frozenset(names)
        layers = [int(match[1]) for match in map(_LAYER.match, listed) if match is not None]
        return cls(recipe, max(layers, default=-1) + 1, "lm_head.weight" not in listed)

    def of_tensor(self, name: str, shape: tuple[int, ...]) -> str:
        """The type of one tensor."""
        if _is_exact(name, shape):
            return "F32"
        dtype = self._wanted(name)
        while shape[-1] % type_named(dtype).block_size:
            dtype = _FALLBACK[dtype]
        return dtype

    def gave_way(self, name: str, shape: tuple[int, ...]) -> bool:
        """Whether a type of wider blocks was meant."""
        return not _is_exact(name, shape) and self.of_tensor(name, shape) != self._wanted(name)

    def _wanted(self, name: str) -> str:
        if not self.recipe.startswith("Q4_K"):
            return self.recipe
        if name == ("model.embed_tokens.weight" if self.is_tied else "lm_head.weight"):
            return "Q6_K"
        return "Q6_K" if self.recipe == "Q4_K_M" and self._is_precise_in_the_mix(name) else "Q4_K"

    def _is_precise_in_the_mix(self, name: str) -> bool:
        match = _LAYER.match(name)
        if match is None or not name.endswith(("v_proj.weight", "down_proj.weight")):
            return False
        layer, eighth = int(match[1]), self.num_layers // 8
        return layer < eighth or layer >= 7 * self.num_layers // 8 or (layer - eighth) % 3 == 2


def _is_exact(name: str, shape: tuple[int, ...]) -> bool:
    return len(shape) < 2 or name.endswith(_EXACT)


class QuantizedSource:
    """A `WeightSource` whose matrices are quantised while they are read, piece by piece."""

    def __init__(self, source: WeightSource, recipe: str) -> None:
        self._source = source
        self._types = TensorTypes.of(recipe, source.names())

    def names(self) -> tuple[str, ...]:
        """All of them."""
        return self._source.names()

    def info(self, name: str) -> TensorInfo:
        """Type and size after quantisation. WeightsError for an unknown name."""
        shape = self._source.info(name).shape
        dtype = self._types.of_tensor(name, shape)
        num_bytes = int(np.prod(shape[:-1], dtype=np.int64)) * type_named(dtype).row_bytes(shape[-1]) if shape else 4
        return TensorInfo(dtype, shape, 0, num_bytes)

    def tensor(self, name: str) -> NDArray[Any]:
        """The whole tensor, quantised."""
        own = self._source.info(name)
        if len(own.shape) < 2:
            return _convert_rows(self._source.tensor(name).reshape(1, -1), own.dtype, "F32", name).reshape(own.shape)
        return self.rows(name, 0, own.shape[0])

    def rows(self, name: str, begin: int, end: int) -> NDArray[Any]:
        """Some rows of a matrix, quantised. WeightsError names the tensor when a row cannot be."""
        dtype = self._source.info(name).dtype
        return _convert_rows(self._source.rows(name, begin, end), dtype, self.info(name).dtype, name, begin)

    def release(self, name: str) -> None:
        """The rows were read; the memory behind them may go."""
        self._source.release(name)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors after quantisation."""
        return sum(self.info(name).nbytes for name in self.names())

    @property
    def fallbacks(self) -> Mapping[str, str]:
        """Tensors whose rows are no multiple of the wanted type's block, and the types they got instead."""
        infos = {name: self.info(name) for name in self.names()}
        return {name: info.dtype for name, info in infos.items() if self._types.gave_way(name, info.shape)}


def _convert_rows(rows: NDArray[Any], dtype: str, wanted: str, name: str, first_row: int = 0) -> NDArray[Any]:
    """Rows [n, K] of one type as rows of another, as they lie in a file; the same type passes unread.

    `first_row` is the number of the first one, for errors. WeightsError names the tensor whose values do not fit.
    """
    if dtype == wanted:
        return rows
    values = _to_float32(rows, dtype, name)
    if wanted == "F32":
        return values
    if wanted in _FLOATS:
        with np.errstate(over="ignore"):  # what does not fit is refused below
            narrow = values.astype(np.float16) if wanted == "F16" else _to_bfloat16(values)
        _require(np.abs(values) <= _LARGEST[wanted], name, first_row, wanted)
        return narrow
    try:
        return kernels.quantize(cast("QuantizableDtype", wanted.lower()), values)
    except ValueError:
        _require(np.abs(values) < _LARGEST_QUANTIZED, name, first_row, wanted)
        raise


def _require(fits: NDArray[np.bool_], name: str, first_row: int, wanted: str) -> None:
    """Raises WeightsError naming the first row with an element that does not fit."""
    if not fits.all():
        row = first_row + int(np.argmin(fits.all(axis=1)))
        raise WeightsError(f"tensor {name!r}: row {row} holds NaN, infinity or a number too large for {wanted}")


def _to_float32(rows: NDArray[Any], dtype: str, name: str) -> NDArray[np.float32]:
    """The same numbers; aligned and contiguous."""
    if dtype == "BF16":
        return (rows.astype(np.uint32) << 16).view(np.float32)
    if dtype in BLOCKS:
        return kernels.dequantize(cast("QuantizedDtype", dtype.lower()), np.require(rows, requirements="C"))
    if dtype not in _FLOATS:
        known = ", ".join((*_FLOATS, *BLOCKS))
        raise WeightsError(f"tensor {name!r} is of type {dtype}, which is not converted; supported: {known}")
    return np.require(rows.astype(np.float32, copy=False), requirements=["C", "A"])


def _to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Rounded to the nearest, halves to even; of numbers that are finite."""
    bits = values.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)


def converted(source: WeightSource, name: str, wanted: str) -> Iterator[NDArray[Any]]:
    """A tensor as `wanted`, from its first row to its last; of three dimensions, matrix by matrix."""
    own = source.info(name)
    if len(own.shape) < 2:
        yield _convert_rows(source.tensor(name).reshape(1, -1), own.dtype, wanted, name)
        return
    step = _ROWS_AT_ONCE if len(own.shape) == 2 else 1
    for row in range(0, own.shape[0], step):
        rows = source.rows(name, row, min(row + step, own.shape[0]))
        yield _convert_rows(rows.reshape(-1, rows.shape[-1]), own.dtype, wanted, name, row)
        source.release(name)
