"""Values of GGUF metadata, read from hostile bytes: numbers, texts, arrays. Knows no keys and no tensors."""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from transom.errors import WeightsError

__all__ = ["MAX_HEADER_BYTES", "Cursor", "GgufArray", "GgufValue", "shown"]

GgufValue: TypeAlias = "int | float | bool | str | list[str] | NDArray[Any] | list[Any]"

MAX_HEADER_BYTES = 2**26
"""Everything before the tensors' bytes. Vocabularies of 256k tokens with 512k merges take a fifth of it."""
_MAX_TEXT_BYTES = 2**23
_MAX_TEXTS = 2**20  # in all arrays of a file together
_MAX_NESTED_ARRAYS = 2**12  # in a file
_MAX_DEPTH = 4
_ARRAY_HEAD_BYTES = 12
_MAX_SHOWN_CHARACTERS = 100

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


class _ValueType(IntEnum):
    """The numbers that stand in a file."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


_NUMBERS: dict[int, np.dtype[Any]] = {
    _ValueType.UINT8: np.dtype("<u1"),
    _ValueType.INT8: np.dtype("<i1"),
    _ValueType.UINT16: np.dtype("<u2"),
    _ValueType.INT16: np.dtype("<i2"),
    _ValueType.UINT32: np.dtype("<u4"),
    _ValueType.INT32: np.dtype("<i4"),
    _ValueType.FLOAT32: np.dtype("<f4"),
    _ValueType.BOOL: np.dtype("?"),
    _ValueType.UINT64: np.dtype("<u8"),
    _ValueType.INT64: np.dtype("<i8"),
    _ValueType.FLOAT64: np.dtype("<f8"),
}


@dataclass(frozen=True, slots=True)
class GgufArray:
    """An array whose bounds were checked, still in the file."""

    buffer: bytes | mmap.mmap
    begin: int  # of its element type
    num_bytes: int  # of the file
    source: str
    what: str

    def decode(self) -> GgufValue:
        """list[str] of texts, a NumPy array of numbers, a list of arrays. Raises WeightsError for damaged texts."""
        return Cursor(self.buffer, self.num_bytes, self.source, self.begin).decode_array(self.what)


def shown(value: object) -> str:
    """A name or a value as an error quotes it: a damaged length makes a name of kilobytes."""
    if isinstance(value, str):
        return repr(value) if len(value) <= _MAX_SHOWN_CHARACTERS else f"{value[:_MAX_SHOWN_CHARACTERS]!r}..."
    text = " ".join(repr(value).split())  # arrays come on several lines
    return text if len(text) <= _MAX_SHOWN_CHARACTERS else f"{text[:_MAX_SHOWN_CHARACTERS]}..."


class Cursor:
    """A place in the bytes of a file that moves forward. Every reader raises WeightsError beyond their end."""

    def __init__(self, buffer: bytes | mmap.mmap, num_bytes: int, source: str, position: int = 0) -> None:
        """`num_bytes`: of the whole file; only its first `MAX_HEADER_BYTES` are ever read."""
        self.num_bytes = num_bytes
        self.position = position
        self._buffer = buffer
        self._end = min(num_bytes, MAX_HEADER_BYTES)
        self._source = source
        self._num_texts = 0
        self._num_nested_arrays = 0

    @property
    def num_bytes_left(self) -> int:
        """Bytes of the header that may follow."""
        return self._end - self.position

    def error(self, problem: str) -> WeightsError:
        """What is wrong with the file."""
        return WeightsError(f"{self._source}: {problem}")

    def take(self, count: int) -> bytes:
        """The next bytes."""
        begin = self._advance(count, "the header")
        return self._buffer[begin : begin + count]

    def u32(self) -> int:
        """An unsigned number of 32 bits."""
        number: int = _U32.unpack(self.take(4))[0]
        return number

    def u64(self) -> int:
        """An unsigned number of 64 bits."""
        number: int = _U64.unpack(self.take(8))[0]
        return number

    def text(self, what: str, limit: int = _MAX_TEXT_BYTES) -> str:
        """A length and so many bytes of UTF-8. `what` is how an error names it."""
        length = self.u64()
        if length > min(limit, self.num_bytes_left):
            raise self.error(f"{what} at offset {self.position - 8} has the impossible length {length}")
        return self._decoded(self.take(length), what)

    def value(self, what: str) -> GgufValue | GgufArray:
        """A type and a value of it; arrays are checked and skipped."""
        value_type = self.u32()
        if value_type == _ValueType.STRING:
            return self.text(what)
        if value_type == _ValueType.ARRAY:
            begin = self.position
            self._skip_array(what, depth=1)
            return GgufArray(self._buffer, begin, self.num_bytes, self._source, what)
        dtype = self._number_type(value_type, what)
        value: int | float | bool = self._numbers(dtype, 1, what)[0].item()
        return value

    def decode_array(self, what: str) -> GgufValue:
        """The array that begins here; it was skipped before, so its bounds are good."""
        element_type, count = self.u32(), self.u64()
        if element_type == _ValueType.STRING:
            return self._texts(count, what)
        if element_type == _ValueType.ARRAY:
            return [self.decode_array(what) for _ in range(count)]
        return self._numbers(_NUMBERS[element_type], count, what)

    def _skip_array(self, what: str, depth: int) -> None:
        element_type, count = self.u32(), self.u64()
        if element_type == _ValueType.STRING:
            self._skip_texts(count, what)
        elif element_type == _ValueType.ARRAY:
            self._skip_nested(count, what, depth + 1)
        else:
            self._advance(count * self._number_type(element_type, what).itemsize, what)

    def _skip_texts(self, count: int, what: str) -> None:
        self._num_texts += count
        if self._num_texts > _MAX_TEXTS or count * _U64.size > self.num_bytes_left:
            raise self.error(f"{what}: an array of {count} texts is impossible here (at most {_MAX_TEXTS} in a file)")
        position, last = self.position, self._end - _U64.size
        length_at, buffer = _U64.unpack_from, self._buffer
        for _ in range(count):
            if position > last:
                break
            position += _U64.size + length_at(buffer, position)[0]
        else:
            self._advance(position - self.position, what)
            return
        raise self._beyond_the_end(what)

    def _skip_nested(self, count: int, what: str, depth: int) -> None:
        self._num_nested_arrays += count
        if self._num_nested_arrays > _MAX_NESTED_ARRAYS or count * _ARRAY_HEAD_BYTES > self.num_bytes_left:
            raise self.error(f"{what}: {count} arrays in an array are impossible here (at most {_MAX_NESTED_ARRAYS})")
        if depth > _MAX_DEPTH:
            raise self.error(f"{what}: arrays are nested deeper than {_MAX_DEPTH}")
        for _ in range(count):
            self._skip_array(what, depth)

    def _texts(self, count: int, what: str) -> list[str]:
        position, buffer, length_at = self.position, self._buffer, _U64.unpack_from
        texts: list[str] = []
        try:
            for _ in range(count):
                begin = position + _U64.size
                position = begin + length_at(buffer, position)[0]
                texts.append(str(buffer[begin:position], "utf-8"))
        except UnicodeDecodeError:
            raise self.error(f"{what}: text {len(texts)} is not UTF-8") from None
        self.position = position
        return texts

    def _numbers(self, dtype: np.dtype[Any], count: int, what: str) -> NDArray[Any]:
        begin = self._advance(count * dtype.itemsize, what)
        raw = self._buffer[begin : begin + count * dtype.itemsize]
        if dtype == np.bool_ and raw.strip(b"\0\1"):
            raise self.error(f"{what}: a byte that is neither 0 nor 1 is no truth value")
        return np.frombuffer(raw, dtype)

    def _number_type(self, value_type: int, what: str) -> np.dtype[Any]:
        if value_type not in _NUMBERS:
            raise self.error(f"{what} is of value type {value_type}, which is not known")
        return _NUMBERS[value_type]

    def _decoded(self, raw: bytes, what: str) -> str:
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise self.error(f"{what} at offset {self.position - len(raw)} is not UTF-8") from None

    def _advance(self, count: int, what: str) -> int:
        """The position before it moved by `count` bytes."""
        begin = self.position
        if count > self._end - begin:
            raise self._beyond_the_end(what)
        self.position = begin + count
        return begin

    def _beyond_the_end(self, what: str) -> WeightsError:
        limit = "the file" if self._end == self.num_bytes else f"the first {MAX_HEADER_BYTES} bytes"
        return self.error(f"{what} goes on beyond the end of {limit}, at byte {self._end}: truncated or damaged")
