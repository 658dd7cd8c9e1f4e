"""`GgufModel`: what a GGUF file says of its model, as plain data. Knows the format's words, not what they make."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from transom.config.settings import Settings

__all__ = ["GgufModel", "as_written"]


@dataclass(frozen=True, slots=True)
class GgufModel:
    """A file's metadata and the shapes of its tensors."""

    source: str
    """The file, for errors."""
    metadata: Mapping[str, Any]
    """Values by key: int, float, bool, str, lists of str, NumPy arrays of numbers."""
    shapes: Mapping[str, tuple[int, ...]]
    """Of the tensors, under their names in the file, row-major."""
    file_type: str
    """What the tensors' types are called together: F16, Q4_K_M, ..."""
    rope_factors: tuple[float, ...] = ()
    """Values of the tensor `rope_freqs.weight`, where there is one."""
    long_rope_factors: tuple[float, ...] = ()
    """Of `rope_factors_long.weight`."""
    short_rope_factors: tuple[float, ...] = ()
    """Of `rope_factors_short.weight`."""

    @property
    def general(self) -> Settings:
        """All keys as they stand in the file."""
        return Settings(self.source, self.metadata)

    @property
    def architecture(self) -> Settings:
        """The keys of `general.architecture`, without that prefix."""
        return self.section(f"{self.general.text('general.architecture')}.")

    def section(self, prefix: str) -> Settings:
        """The keys that begin with `prefix`, without it; numbers as the decimals they were, arrays as lists."""
        own = {key.removeprefix(prefix): value for key, value in self.metadata.items() if key.startswith(prefix)}
        return Settings(self.source, {key: as_written(value) for key, value in own.items()}, prefix)


def as_written(value: Any) -> Any:
    """Numbers of 32 bits as the decimal that was meant, 1e-05 for 9.99999974e-06; arrays as lists."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if not isinstance(value, float) or not np.isfinite(value) or value.is_integer():
        return value
    try:
        (narrow,) = struct.unpack("<f", struct.pack("<f", value))
    except OverflowError:
        return value
    return float(str(np.float32(value))) if narrow == value else value
