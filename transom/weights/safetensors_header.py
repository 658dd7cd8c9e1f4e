"""The header of a safetensors file, parsed and checked by ourselves: hostile until every number in it is proven.

Format (huggingface/safetensors): 8 bytes little-endian header length, a JSON object of that length, then the data.
Each entry gives dtype, shape and [begin, end) relative to the data; entries must tile the data without gap or overlap.
Knows bytes and numbers only: no mapping, no directory, no model.
"""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

from transom.errors import WeightsError
from transom.weights.tensor_info import TensorInfo

__all__ = ["ITEM_SIZES", "LENGTH_BYTES", "MAX_HEADER_BYTES", "TensorInfo", "header_length", "parse_header"]

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000
_MAX_VALUES = 1_000_000  # of one header: 200,000 matrices; parsed, they take some hundred MB instead of gigabytes
_MAX_DIMENSIONS = 32
_ENTRY_KEYS = {"dtype", "shape", "data_offsets"}

ITEM_SIZES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
}
"""Bytes of one element, by the format's dtype names."""


def header_length(prefix: bytes, file_bytes: int, source: str) -> int:
    """Length in bytes of the JSON object, from the file's first 8 bytes. Raises WeightsError."""
    if len(prefix) < LENGTH_BYTES:
        raise WeightsError(f"{source}: {file_bytes} bytes are too few for a safetensors file")
    length = int.from_bytes(prefix, "little")
    if not 2 <= length <= min(MAX_HEADER_BYTES, file_bytes - LENGTH_BYTES):
        raise WeightsError(
            f"{source}: header length {length} at offset 0 is impossible in a file of {file_bytes} bytes "
            f"(2 to {MAX_HEADER_BYTES}, within the file)"
        )
    return length


def parse_header(header: bytes, data_bytes: int, source: str) -> dict[str, TensorInfo]:
    """Tensors by name. `data_bytes` is what follows the header. Raises WeightsError naming the tensor and the rule."""
    entries = _parse_json(header, source)
    _check_metadata(entries.pop("__metadata__", {}), source)
    tensors = {name: _parse_entry(entry, f"{source}: tensor {name!r}") for name, entry in entries.items()}
    _check_tiling(tensors, data_bytes, source)
    return tensors


def _parse_json(header: bytes, source: str) -> dict[str, Any]:
    if not header.startswith(b"{"):
        raise WeightsError(f"{source}: header at offset {LENGTH_BYTES} does not begin with an object")
    if header.count(b",") >= _MAX_VALUES:
        raise WeightsError(f"{source}: header holds more than {_MAX_VALUES} values")
    try:
        entries = json.loads(header.decode("utf-8"), object_pairs_hook=_unique)
    except RecursionError:
        raise WeightsError(f"{source}: header is nested too deeply") from None
    except ValueError as error:  # JSON, UTF-8, duplicate names, integers of absurd length
        raise WeightsError(f"{source}: header is not valid JSON: {error}") from None
    assert isinstance(entries, dict)
    return entries


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for name, value in pairs:
        if name in entries:
            raise ValueError(f"duplicate name {name!r}")
        entries[name] = value
    return entries


def _check_metadata(metadata: object, source: str) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise WeightsError(f"{source}: __metadata__ must map strings to strings")


def _parse_entry(entry: object, source: str) -> TensorInfo:
    if not isinstance(entry, dict) or entry.keys() != _ENTRY_KEYS:
        raise WeightsError(f"{source}: must have dtype, shape and data_offsets and nothing else")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_SIZES:
        raise WeightsError(f"{source}: dtype {str(dtype)[:40]!r} is not one of {', '.join(ITEM_SIZES)}")
    if not _is_counts(shape) or len(shape) > _MAX_DIMENSIONS:
        raise WeightsError(f"{source}: shape must be up to {_MAX_DIMENSIONS} integers of 0 or more")
    if not _is_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise WeightsError(f"{source}: data_offsets must be two integers, 0 <= begin <= end")
    expected = math.prod(shape) * ITEM_SIZES[dtype]
    if offsets[1] - offsets[0] != expected:
        raise WeightsError(f"{source}: data_offsets span {offsets[1] - offsets[0]} bytes, shape and dtype {expected}")
    return TensorInfo(dtype, tuple(shape), offsets[0], offsets[1])


def _is_counts(value: object) -> bool:
    """A list of integers of 64 bits, none negative; JSON's true is no integer."""
    return isinstance(value, list) and all(type(each) is int and 0 <= each < 2**63 for each in value)


def _check_tiling(tensors: dict[str, TensorInfo], data_bytes: int, source: str) -> None:
    """Every byte of the data belongs to exactly one tensor."""
    in_order = sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end))
    ends = itertools.chain([0], (info.end for _, info in in_order))
    for (name, info), previous_end in zip(in_order, ends, strict=False):
        if info.begin != previous_end:
            problem = "overlaps the tensor before it" if info.begin < previous_end else "leaves a gap before it"
            raise WeightsError(f"{source}: tensor {name!r} begins at {info.begin} and {problem} (end {previous_end})")
    end = in_order[-1][1].end if in_order else 0
    if end != data_bytes:
        raise WeightsError(f"{source}: tensors end at byte {end} of the data, the file at {data_bytes}")
