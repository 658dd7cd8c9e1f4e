"""The header of a GGUF file, read from hostile bytes: metadata, and where each tensor lies. Knows no model.

Versions 2 and 3, little-endian. Nothing is allocated by a count, a length or an offset that was not compared with the
file first. Arrays stay in the file until they are asked for: a vocabulary is megabytes that a worker never needs.
Source: the GGUF specification (ggml/docs/gguf.md).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from transom.weights.ggml_types import GGML_TYPES
from transom.weights.gguf_values import Cursor, GgufArray, GgufValue, shown
from transom.weights.tensor_info import TensorInfo

__all__ = ["LEAST_BYTES", "MAGIC", "GgufHeader", "GgufMetadata", "parse_header"]

LEAST_BYTES = 24
"""Magic number, version and the two counts."""

MAGIC = b"GGUF"
"""What every GGUF file begins with."""

# Bounds that no real file comes near.
_MAX_KEYS = 2**16
_MAX_TENSORS = 2**16
_MAX_NAME_BYTES = 2**16 - 1
_MAX_DIMENSIONS = 4
_LEAST_PAIR_BYTES = 14  # key of one byte, type, the smallest value
_LEAST_TENSOR_BYTES = 25  # name of one byte, no dimension
_DEFAULT_ALIGNMENT = 32
_MAX_ALIGNMENT = 2**20
_VERSIONS = (2, 3)
_MAX_FOREIGN_VERSION = 2**16


class GgufMetadata(Mapping[str, GgufValue]):
    """Values by key: int, float, bool, str, list[str], NumPy arrays of numbers; arrays of arrays are lists.

    An array is decoded when it is first asked for, and kept; that may raise WeightsError. Equal to any mapping with
    the same items. Not for use from several threads.
    """

    def __init__(self, values: dict[str, GgufValue | GgufArray]) -> None:
        self._values = values

    def __getitem__(self, key: str) -> GgufValue:
        value = self._values[key]
        if isinstance(value, GgufArray):
            value = self._values[key] = value.decode()
        return value

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """Everything before the data, checked."""

    metadata: GgufMetadata
    tensors: Mapping[str, TensorInfo]
    """Shapes are row-major: the last dimension is the one that a file names first."""
    data_start: int
    """Offset of the data in the file."""


def parse_header(cursor: Cursor) -> GgufHeader:
    """Reads all of it, from the file's first byte. Raises WeightsError naming file, key or tensor, and the rule."""
    _check_version(cursor)
    num_tensors = _count(cursor, "tensors", _MAX_TENSORS, _LEAST_TENSOR_BYTES)
    num_keys = _count(cursor, "metadata keys", _MAX_KEYS, _LEAST_PAIR_BYTES)
    metadata = GgufMetadata(_read_pairs(cursor, num_keys))
    alignment = _alignment(metadata, cursor)
    entries = [_read_entry(cursor) for _ in range(num_tensors)]
    data_start = cursor.position + -cursor.position % alignment
    tensors = _place(entries, alignment, cursor.num_bytes - data_start, cursor)
    return GgufHeader(metadata, tensors, data_start)


def _check_version(cursor: Cursor) -> None:
    if (magic := cursor.take(4)) != MAGIC:
        raise cursor.error(f"begins with {magic!r} instead of {MAGIC!r}: it is not a GGUF file")
    version = cursor.u32()
    if version in _VERSIONS:
        return
    if version % _MAX_FOREIGN_VERSION == 0 and version:
        raise cursor.error("is a big-endian GGUF file; only little-endian ones are supported")
    raise cursor.error(f"GGUF version {version} is not supported; supported: 2, 3")


def _count(cursor: Cursor, what: str, limit: int, least_bytes: int) -> int:
    count = cursor.u64()
    if count > limit:
        raise cursor.error(f"{count} {what} are impossible (at most {limit}): it is damaged")
    if count > cursor.num_bytes_left // least_bytes:
        raise cursor.error(
            f"{count} {what} are impossible in a file of {cursor.num_bytes} bytes: it is truncated or damaged"
        )
    return count


def _read_pairs(cursor: Cursor, count: int) -> dict[str, GgufValue | GgufArray]:
    values: dict[str, GgufValue | GgufArray] = {}
    for _ in range(count):
        key = _name(cursor, "metadata key")
        if key in values:
            raise cursor.error(f"metadata key {shown(key)} is given twice")
        values[key] = cursor.value(f"metadata key {shown(key)}")
    return values


def _name(cursor: Cursor, what: str) -> str:
    name = cursor.text(what, _MAX_NAME_BYTES)
    if not name:
        raise cursor.error(f"a {what} is empty")
    return name


def _alignment(metadata: GgufMetadata, cursor: Cursor) -> int:
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if type(alignment) is not int or not 1 <= alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
        raise cursor.error(f"general.alignment is {shown(alignment)}, must be a power of two up to {_MAX_ALIGNMENT}")
    return alignment


@dataclass(frozen=True, slots=True)
class _Entry:
    """A tensor as it stands in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    num_bytes: int


def _read_entry(cursor: Cursor) -> _Entry:
    name = _name(cursor, "tensor name")
    num_dimensions = cursor.u32()
    if num_dimensions > _MAX_DIMENSIONS:
        raise cursor.error(
            f"tensor {shown(name)} has {num_dimensions} dimensions, at most {_MAX_DIMENSIONS} are possible"
        )
    sizes = [cursor.u64() for _ in range(num_dimensions)]
    number, begin = cursor.u32(), cursor.u64()
    ggml_type = GGML_TYPES.get(number)
    if ggml_type is None:
        raise cursor.error(f"tensor {shown(name)} is of type number {number}, which is not known")
    row = sizes[0] if sizes else 1
    if row % ggml_type.block_size:
        rule = f"blocks of {ggml_type.name} hold {ggml_type.block_size}"
        raise cursor.error(f"tensor {shown(name)} has rows of {row} elements, but {rule}")
    num_bytes = math.prod(sizes[1:]) * ggml_type.row_bytes(row)
    return _Entry(name, ggml_type.name, tuple(reversed(sizes)), begin, num_bytes)


def _place(entries: list[_Entry], alignment: int, data_bytes: int, cursor: Cursor) -> dict[str, TensorInfo]:
    """Tensors by name, in the order of the file; each begins aligned, none overlaps another or leaves the data."""
    tensors: dict[str, TensorInfo] = {}
    for entry in entries:
        if entry.name in tensors:
            raise cursor.error(f"tensor {shown(entry.name)} is given twice")
        if entry.begin % alignment:
            raise cursor.error(f"tensor {shown(entry.name)} begins at {entry.begin}, not a multiple of {alignment}")
        if entry.begin + entry.num_bytes > max(data_bytes, 0):
            raise cursor.error(
                f"tensor {shown(entry.name)} takes bytes {entry.begin} to {entry.begin + entry.num_bytes} of the data, "
                f"the file holds {max(data_bytes, 0)}: it is truncated or damaged"
            )
        tensors[entry.name] = TensorInfo(entry.dtype, entry.shape, entry.begin, entry.begin + entry.num_bytes)
    in_order = sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end))
    for (_, before), (name, info) in itertools.pairwise(in_order):
        if info.begin < before.end:
            raise cursor.error(f"tensor {shown(name)} begins at {info.begin} and overlaps the tensor before it")
    return tensors
