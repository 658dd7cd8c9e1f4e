"""safetensors files made byte by byte, so that they can be wrong in every way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_DTYPES = {"float32": "F32", "float16": "F16", "uint16": "BF16", "float64": "F64", "int64": "I64"}


def frame(header: bytes, data: bytes = b"") -> bytes:
    """A file of any header and any data, with the true header length."""
    return len(header).to_bytes(8, "little") + header + data


def encode(tensors: Mapping[str, NDArray[Any]], pad: int = 0) -> bytes:
    """A valid file; uint16 stands for bf16. `pad` spaces behind the header move the data."""
    header: dict[str, Any] = {}
    data = b""
    for name, values in tensors.items():
        raw = values.tobytes()
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": _DTYPES[values.dtype.name], "shape": list(values.shape), "data_offsets": offsets}
        data += raw
    return frame(json.dumps(header).encode() + b" " * pad, data)


def write_single(directory: Path, tensors: Mapping[str, NDArray[Any]], pad: int = 0) -> Path:
    """A directory with model.safetensors."""
    (directory / "model.safetensors").write_bytes(encode(tensors, pad))
    return directory


def write_index(directory: Path, weight_map: object) -> Path:
    """A directory with the index of a sharded checkpoint."""
    content = json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map})
    (directory / "model.safetensors.index.json").write_text(content, encoding="utf-8")
    return directory


def f32(*shape: int) -> NDArray[np.float32]:
    """Distinct small numbers that every type holds exactly."""
    return (np.arange(np.prod(shape, dtype=int)) % 97 - 48).astype(np.float32).reshape(shape)


def bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The upper half of each float: exact for the numbers of `f32`."""
    return (values.view(np.uint32) >> 16).astype(np.uint16)
