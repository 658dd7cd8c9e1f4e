"""GGUF files made byte by byte, so that they can be wrong in every way, and by the `gguf` package, to be right."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

UINT8, INT8, UINT16, INT16, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64, INT64, FLOAT64 = range(13)
F32, F16, Q4_K = 0, 1, 12


def text(value: str | bytes) -> bytes:
    """A length and the bytes."""
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def pair(key: str, value_type: int, value: bytes) -> bytes:
    """One entry of the metadata."""
    return text(key) + struct.pack("<I", value_type) + value


def array(element_type: int, count: int, elements: bytes) -> bytes:
    """The value of an entry of type ARRAY."""
    return struct.pack("<IQ", element_type, count) + elements


def tensor(name: str, sizes: Sequence[int], ggml_type: int = F32, offset: int = 0) -> bytes:
    """One tensor's description; `sizes` in the file's order, fastest first."""
    head = text(name) + struct.pack("<I", len(sizes)) + struct.pack(f"<{len(sizes)}Q", *sizes)
    return head + struct.pack("<IQ", ggml_type, offset)


def frame(
    pairs: Sequence[bytes] = (),
    tensors: Sequence[bytes] = (),
    data: bytes = b"",
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    num_tensors: int | None = None,
    num_pairs: int | None = None,
    alignment: int = 32,
) -> bytes:
    """A file of any header and any data, with the true counts unless told otherwise."""
    counts = struct.pack(
        "<QQ", len(tensors) if num_tensors is None else num_tensors, len(pairs) if num_pairs is None else num_pairs
    )
    header = magic + struct.pack("<I", version) + counts + b"".join([*pairs, *tensors])
    return header + b"\0" * (-len(header) % alignment if data else 0) + data


def write_gguf(
    path: Path,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, NDArray[Any]],
    *,
    architecture: str = "llama",
    quantized: Mapping[str, gguf.GGMLQuantizationType] | None = None,
) -> Path:
    """A valid file by the `gguf` package. int, float, bool, str and lists; those in `quantized` get their type."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in metadata.items():
        _add(writer, key, value)
    for name, values in tensors.items():
        kind = (quantized or {}).get(name)
        if kind is None:
            writer.add_tensor(name, values)
        else:
            raw = values if values.dtype == np.uint8 else gguf.quants.quantize(values, kind)
            writer.add_tensor(name, raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, value)
