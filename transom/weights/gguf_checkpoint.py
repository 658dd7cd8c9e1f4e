"""A GGUF file as a checkpoint: tensors under the names, and in the order of rows, that models ask for.

Owns the way from a file to what other rooms need of it: a source of weights, and the facts a `ModelConfig` is made of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transom.config.gguf_model import GgufModel
from transom.errors import UnsupportedModelError, WeightsError
from transom.weights.ggml_types import FILE_TYPES
from transom.weights.gguf import GgufFile, open_gguf
from transom.weights.gguf_names import ANY_EXPERT, NAMINGS, GgufNaming, hugging_face_order
from transom.weights.gguf_values import shown
from transom.weights.mapped_file import MappedFile
from transom.weights.tensor_info import TensorInfo

__all__ = ["GgufCheckpoint", "describe_gguf", "open_gguf_checkpoint"]

_ROPE_FACTORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
"""They belong to the configuration."""
_MAX_ROPE_FACTORS = 2**14
_MAX_EXPERT_PARTS = 2**17  # no model comes near; each has a name, so that few bytes could ask for any number of them


@dataclass(frozen=True, slots=True)
class _Place:
    """A tensor of the file, or one expert's part of it."""

    name: str
    expert: int | None = None


class GgufCheckpoint:
    """The tensors of a model under Hugging Face's names. Read-only; safe to use from several threads.

    A tensor of all experts of a layer is one tensor for each expert. Names of norms that are whole end with
    `gguf_names.WHOLE_WEIGHT`.
    """

    def __init__(self, file: GgufFile, naming: GgufNaming, num_heads: Mapping[str, int]) -> None:
        """`num_heads`: of `query` and of `key`. Raises WeightsError for misshapen experts."""
        self._file = file
        self._naming = naming
        self._num_heads = num_heads
        named = {name: naming.hugging_face(name) or name for name in file.names() if name not in _ROPE_FACTORS}
        _require_few_experts(file, named)
        self._places = {theirs: place for name in named for theirs, place in _places(file, name, named[name])}

    def names(self) -> tuple[str, ...]:
        """Every tensor, sorted; those without a name of Hugging Face's under that of the file."""
        return tuple(sorted(self._places))

    def info(self, name: str) -> TensorInfo:
        """Type (`F32`, `Q4_K`, ...) and shape. Raises WeightsError for an unknown name."""
        place = self._place(name)
        info = self._file.info(place.name)
        if place.expert is not None:
            num_bytes = info.nbytes // info.shape[0]
            begin = info.begin + place.expert * num_bytes
            info = TensorInfo(info.dtype, info.shape[1:], begin, begin + num_bytes)
        if self._naming.is_depthwise(name) and len(info.shape) == 2:
            channels, taps = info.shape
            info = TensorInfo(info.dtype, (channels, 1, taps), info.begin, info.end)
        return info

    def tensor(self, name: str) -> NDArray[Any]:
        """As `GgufFile.tensor`; a copy where the file has another order of rows."""
        values = self._values(name)
        order = self._order(name)
        return values if order is None else values[order]

    def rows(self, name: str, begin: int, end: int) -> NDArray[Any]:
        """Rows `begin .. end` of `tensor(name)`."""
        values = self._values(name)
        order = self._order(name)
        return values[begin:end] if order is None else values[order[begin:end]]

    def release(self, name: str) -> None:
        """Drops the tensor's pages from this process's memory; an expert's along with those of its neighbours."""
        self._file.release(self._place(name).name)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, at the width they have in the file."""
        return sum(self.info(name).nbytes for name in self._places)

    @property
    def files(self) -> tuple[MappedFile, ...]:
        """All that the tensors lie in, in order of their names."""
        return self._file.files

    def _place(self, name: str) -> _Place:
        if name not in self._places:
            raise WeightsError(f"{self._file.path}: tensor {self._naming.in_file(name) or name!r} is missing")
        return self._places[name]

    def _values(self, name: str) -> NDArray[Any]:
        """As they lie in the file, in Hugging Face's shape."""
        place = self._place(name)
        values = self._file.tensor(place.name)
        if place.expert is not None:
            values = values[place.expert]
        return values[:, np.newaxis] if self._naming.is_depthwise(name) and values.ndim == 2 else values

    def _order(self, name: str) -> NDArray[np.int64] | None:
        heads = self._naming.interleaved_heads(name)
        if heads is None:
            return None
        num_rows, num_heads = self.info(name).shape[0], self._num_heads[heads]
        if num_rows % (2 * num_heads):
            tensor = f"{self._file.path}: tensor {self._places[name].name!r}"
            raise WeightsError(f"{tensor} has {num_rows} rows, which {num_heads} heads cannot share")
        return hugging_face_order(num_rows, num_heads)


def _require_few_experts(file: GgufFile, named: Mapping[str, str]) -> None:
    """Raises WeightsError when the experts of all layers are more than any model has."""
    shapes = [file.info(name).shape for name, theirs in named.items() if ANY_EXPERT in theirs]
    count = sum(shape[0] for shape in shapes if len(shape) == 3)
    if count > _MAX_EXPERT_PARTS:
        raise WeightsError(f"{file.path}: holds {count} matrices of experts, more than {_MAX_EXPERT_PARTS}")


def _places(file: GgufFile, name: str, hugging_face: str) -> Iterator[tuple[str, _Place]]:
    """Under which names a tensor of the file is known, and which part of it is meant by each."""
    if ANY_EXPERT not in hugging_face:
        yield hugging_face, _Place(name)
        return
    shape = file.info(name).shape
    if len(shape) != 3 or shape[0] < 1:
        raise WeightsError(f"{file.path}: tensor {name!r} has shape {list(shape)}, must be one matrix for each expert")
    for expert in range(shape[0]):
        yield hugging_face.replace(ANY_EXPERT, str(expert)), _Place(name, expert)


def open_gguf_checkpoint(path: Path) -> GgufCheckpoint:
    """The weights of a file, or of a split model. Raises WeightsError, UnsupportedModelError."""
    file = open_gguf(path)
    architecture = file.metadata.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in NAMINGS:
        raise UnsupportedModelError(f"{path}: general.architecture {shown(architecture)} is not supported")
    return GgufCheckpoint(file, NAMINGS[architecture], _num_heads(file, architecture))


def describe_gguf(file: GgufFile) -> GgufModel:
    """What `transom.config.gguf_config` makes a `ModelConfig` of. Raises WeightsError."""
    shapes = {name: file.info(name).shape for name in file.names()}
    factors = (_rope_factors(file, name) for name in _ROPE_FACTORS)
    return GgufModel(str(file.path), file.metadata, shapes, _file_type(file), *factors)


def _num_heads(file: GgufFile, architecture: str) -> dict[str, int]:
    query = _head_count(file, f"{architecture}.attention.head_count", None)
    return {"query": query, "key": _head_count(file, f"{architecture}.attention.head_count_kv", query)}


def _head_count(file: GgufFile, key: str, default: int | None) -> int:
    value = file.metadata.get(key, default)
    count = value.max().item() if isinstance(value, np.ndarray) and value.size else value
    if type(count) is not int or count < 1:
        raise WeightsError(f"{file.path}: metadata key {key!r} is {shown(count)}, must be a number of 1 or more")
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


def _rope_factors(file: GgufFile, name: str) -> tuple[float, ...]:
    if name not in file.names():
        return ()
    info = file.info(name)
    if info.dtype != "F32" or len(info.shape) != 1 or info.shape[0] > _MAX_ROPE_FACTORS:
        raise WeightsError(f"{file.path}: tensor {name!r} must be a vector of F32")
    return tuple(file.tensor(name).tolist())
