"""A GGUF file as a checkpoint: tensors under the names, and in the order of rows, that models ask for.

Owns the way from a file to what other rooms need of it: a source of weights, and the facts a `ModelConfig` is made of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transom.config.gguf_config import GgufModel
from transom.errors import UnsupportedModelError, WeightsError
from transom.weights.ggml_types import FILE_TYPES
from transom.weights.gguf import GgufFile, open_gguf
from transom.weights.gguf_names import NAMINGS, GgufNaming, hugging_face_order
from transom.weights.gguf_values import shortened
from transom.weights.tensor_info import TensorInfo

__all__ = ["GgufCheckpoint", "describe_gguf", "open_gguf_checkpoint"]

_ROPE_FACTORS = "rope_freqs.weight"
_MAX_ROPE_FACTORS = 2**14


class GgufCheckpoint:
    """The tensors of a model under Hugging Face's names. Read-only; safe to use from several threads."""

    def __init__(self, file: GgufFile, naming: GgufNaming, num_heads: Mapping[str, int]) -> None:
        """`num_heads`: of `query` and of `key`."""
        self._file = file
        self._naming = naming
        self._num_heads = num_heads
        self._in_file = {naming.hugging_face(name) or name: name for name in file.names() if name != _ROPE_FACTORS}

    def names(self) -> tuple[str, ...]:
        """Every tensor, sorted; those without a name of Hugging Face's under that of the file."""
        return tuple(sorted(self._in_file))

    def info(self, name: str) -> TensorInfo:
        """Type (`F32`, `Q4_K`, ...) and shape. Raises WeightsError for an unknown name."""
        return self._file.info(self._name_in_file(name))

    def tensor(self, name: str) -> NDArray[Any]:
        """As `GgufFile.tensor`; a copy where the file has another order of rows."""
        values = self._file.tensor(self._name_in_file(name))
        order = self._order(name)
        return values if order is None else values[order]

    def rows(self, name: str, begin: int, end: int) -> NDArray[Any]:
        """Rows `begin .. end` of `tensor(name)`."""
        values = self._file.tensor(self._name_in_file(name))
        order = self._order(name)
        return values[begin:end] if order is None else values[order[begin:end]]

    def release(self, name: str) -> None:
        """Drops the tensor's pages from this process's memory."""
        self._file.release(self._name_in_file(name))

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, at the width they have in the file."""
        return sum(self.info(name).nbytes for name in self._in_file)

    def _name_in_file(self, name: str) -> str:
        if name not in self._in_file:
            raise WeightsError(f"{self._file.path}: tensor {self._naming.in_file(name) or name!r} is missing")
        return self._in_file[name]

    def _order(self, name: str) -> NDArray[np.int64] | None:
        heads = self._naming.interleaved_heads(name)
        if heads is None:
            return None
        num_rows, num_heads = self.info(name).shape[0], self._num_heads[heads]
        if num_rows % (2 * num_heads):
            tensor = f"{self._file.path}: tensor {self._in_file[name]!r}"
            raise WeightsError(f"{tensor} has {num_rows} rows, which {num_heads} heads cannot share")
        return hugging_face_order(num_rows, num_heads)


def open_gguf_checkpoint(path: Path) -> GgufCheckpoint:
    """The weights of a file, or of a split model. Raises WeightsError, UnsupportedModelError."""
    file = open_gguf(path)
    architecture = file.metadata.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in NAMINGS:
        raise UnsupportedModelError(f"{path}: general.architecture {shortened(repr(architecture))} is not supported")
    return GgufCheckpoint(file, NAMINGS[architecture], _num_heads(file, architecture))


def describe_gguf(file: GgufFile) -> GgufModel:
    """What `transom.config.gguf_config` makes a `ModelConfig` of. Raises WeightsError."""
    shapes = {name: file.info(name).shape for name in file.names()}
    return GgufModel(str(file.path), file.metadata, shapes, _file_type(file), _rope_factors(file))


def _num_heads(file: GgufFile, architecture: str) -> dict[str, int]:
    query = _head_count(file, f"{architecture}.attention.head_count", None)
    return {"query": query, "key": _head_count(file, f"{architecture}.attention.head_count_kv", query)}


def _head_count(file: GgufFile, key: str, default: int | None) -> int:
    value = file.metadata.get(key, default)
    count = value.max().item() if isinstance(value, np.ndarray) and value.size else value
    if type(count) is not int or count < 1:
        found = shortened(str(count))
        raise WeightsError(f"{file.path}: metadata key {key!r} is {found}, must be a number of 1 or more")
    return count


def _file_type(file: GgufFile) -> str:
    """The recipe's name, or, where there is none, the type that takes most of the bytes."""
    number = file.metadata.get("general.file_type")
    if isinstance(number, int) and number in FILE_TYPES:
        return FILE_TYPES[number]
    sizes: Counter[str] = Counter()
    for info in map(file.info, file.names()):
        sizes[info.dtype] += info.nbytes
    return sizes.most_common(1)[0][0] if sizes else "F32"


def _rope_factors(file: GgufFile) -> tuple[float, ...]:
    if _ROPE_FACTORS not in file.names():
        return ()
    info = file.info(_ROPE_FACTORS)
    if info.dtype != "F32" or len(info.shape) != 1 or info.shape[0] > _MAX_ROPE_FACTORS:
        raise WeightsError(f"{file.path}: tensor {_ROPE_FACTORS!r} must be a vector of F32")
    return tuple(file.tensor(_ROPE_FACTORS).tolist())
