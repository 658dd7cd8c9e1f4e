"""GGUF files (version 3), written tensor by tensor: sizes first, then bytes, in bounded memory.

A file appears under its name when it is complete and on the disk, or not at all: it is written under another name in
the same directory, flushed, renamed. Knows values and bytes; what keys and tensors mean is the caller's business.
Source: the GGUF specification (ggml/docs/gguf.md).
"""

from __future__ import annotations

import fcntl
import math
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from transom.errors import WeightsError
from transom.weights.ggml_types import GGML_TYPES, type_named
from transom.weights.gguf_values import GgufValue

__all__ = ["PlannedTensor", "write_gguf"]

ALIGNMENT = 32
"""Of every tensor's place; the format's default, so no key has to say it."""

_UNFINISHED = ".unfinished"
_MAGIC, _VERSION = b"GGUF", 3
_U32, _I32, _F32, _BOOL, _STRING, _ARRAY, _U64, _I64, _F64 = 4, 5, 6, 7, 8, 9, 10, 11, 12
_NUMBER_TYPES = {"u1": 0, "i1": 1, "u2": 2, "i2": 3, "u4": 4, "i4": 5, "f4": 6, "b1": 7, "u8": 10, "i8": 11, "f8": 12}
_TYPE_NUMBERS = {each.name: number for number, each in GGML_TYPES.items()}


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """A tensor to be written."""

    name: str
    dtype: str
    """The format's name of the type: `F32`, `Q4_K`."""
    shape: tuple[int, ...]
    """In row-major order."""
    pieces: Callable[[], Iterator[NDArray[Any]]]
    """The tensor's bytes from first to last, in arrays of any shape, little-endian."""

    @property
    def nbytes(self) -> int:
        """Bytes in the file, without padding."""
        row = self.shape[-1] if self.shape else 1
        return math.prod(self.shape[:-1]) * type_named(self.dtype).row_bytes(row)


def _ignore_progress(done_bytes: int, total_bytes: int) -> None:
    """Nobody is watching."""


def write_gguf(
    path: Path,
    metadata: Mapping[str, GgufValue],
    tensors: Sequence[PlannedTensor],
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = _ignore_progress,
) -> int:
    """Writes the file and returns its size. Blocks until it is on the disk.

    Values: numbers become u32, i32, u64 or i64, the first that holds them; floats f32 where that is exact; arrays keep
    their type. `progress(done_bytes, total_bytes)` is called after every piece. Raises WeightsError naming the path:
    it exists and is not to be overwritten, the disk is full, a directory is missing or cannot be written; whatever
    `pieces` raise passes through. In each case nothing is left behind. What a writer of this name that was killed left
    is removed.
    """
    header = _header(metadata, tensors)
    total = len(header) + sum(_aligned(tensor.nbytes) for tensor in tensors)
    with _appearing(path, overwrite=overwrite) as file:
        os.posix_fallocate(file.fileno(), 0, total)  # a disk that is too full says so now
        file.write(header)
        done = len(header)
        for tensor in tensors:
            for piece in _checked_pieces(tensor):
                file.write(piece)
                done += piece.nbytes
                progress(done, total)
            padding = _aligned(tensor.nbytes) - tensor.nbytes
            file.write(bytes(padding))
            done += padding
    return total


def _checked_pieces(tensor: PlannedTensor) -> Iterator[memoryview]:
    """Its bytes; a sum that differs from the plan would shift everything behind it."""
    left = tensor.nbytes
    for array in tensor.pieces():
        piece = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        left -= piece.nbytes
        yield piece
    if left:
        raise WeightsError(f"tensor {tensor.name!r} came out {-left} bytes longer than its shape says")


@contextmanager
def _appearing(path: Path, *, overwrite: bool) -> Iterator[BinaryIO]:
    """A file that gets its name when it is complete."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}{_UNFINISHED}")
    try:
        _require_free(path, overwrite=overwrite)
        _remove_abandoned(path)
        with unfinished.open("xb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # as long as its writer lives
            yield file
            file.flush()
            os.fsync(file.fileno())
        _require_free(path, overwrite=overwrite)
        unfinished.replace(path)
        _flush_directory(path.parent)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        with suppress(OSError):
            unfinished.unlink()


def _remove_abandoned(path: Path) -> None:
    """Files for the same name whose writers were killed: nobody holds their locks."""
    for entry in path.parent.iterdir():
        if entry.name.startswith(f".{path.name}.") and entry.name.endswith(_UNFINISHED):
            with suppress(OSError), entry.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                entry.unlink()


def _require_free(path: Path, *, overwrite: bool) -> None:
    if path.is_dir():
        raise WeightsError(f"{path}: is a directory")
    if not overwrite and os.path.lexists(path):
        raise WeightsError(f"{path}: exists already")


def _flush_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---- header


def _header(metadata: Mapping[str, GgufValue], tensors: Sequence[PlannedTensor]) -> bytes:
    parts = [_MAGIC, struct.pack("<IQQ", _VERSION, len(tensors), len(metadata))]
    for key, value in metadata.items():
        parts += [_text(key), _typed_value(value)]
    offset = 0
    for tensor in tensors:
        dimensions = tensor.shape[::-1]  # the fastest first
        parts.append(_text(tensor.name))
        parts.append(struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions))
        parts.append(struct.pack("<IQ", _TYPE_NUMBERS[tensor.dtype], offset))
        offset += _aligned(tensor.nbytes)
    header = b"".join(parts)
    return header + bytes(_aligned(len(header)) - len(header))


def _typed_value(value: GgufValue) -> bytes:
    match value:
        case bool():
            return struct.pack("<I?", _BOOL, value)
        case int():
            return _integer(value)
        case float():
            return struct.pack("<If", _F32, value) if _is_float32(value) else struct.pack("<Id", _F64, value)
        case str():
            return struct.pack("<I", _STRING) + _text(value)
        case np.ndarray():
            number_type = _NUMBER_TYPES[value.dtype.str[1:]]
            little_endian = np.ascontiguousarray(value, value.dtype.newbyteorder("<"))
            return struct.pack("<IIQ", _ARRAY, number_type, len(value)) + little_endian.tobytes()
        case _:
            return struct.pack("<IIQ", _ARRAY, *_element_type(value)) + b"".join(map(_element, value))


def _is_float32(value: float) -> bool:
    try:
        (narrow,) = struct.unpack("<f", struct.pack("<f", value))
    except OverflowError:
        return False
    return bool(narrow == value or value != value)


def _element_type(values: list[Any]) -> tuple[int, int]:
    return (_STRING if all(isinstance(each, str) for each in values) else _ARRAY), len(values)


def _element(value: Any) -> bytes:
    """Of an array of texts or of arrays; these say their own type, which follows the array's."""
    return _text(value) if isinstance(value, str) else _typed_value(value)[4:]


def _integer(value: int) -> bytes:
    for code, form, low, high in (
        (_U32, "<II", 0, 2**32),
        (_I32, "<Ii", -(2**31), 2**31),
        (_U64, "<IQ", 0, 2**64),
    ):
        if low <= value < high:
            return struct.pack(form, code, value)
    return struct.pack("<Iq", _I64, value)


def _text(text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(data)) + data


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT
