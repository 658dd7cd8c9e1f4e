"""A model's weights by its path alone: a directory of safetensors, or a GGUF file. Knows no architecture."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Protocol

from transom.weights.gguf import find_gguf
from transom.weights.gguf_checkpoint import open_gguf_checkpoint
from transom.weights.loader import WeightSource
from transom.weights.mapped_file import MappedFile
from transom.weights.quantization import QuantizedSource
from transom.weights.safetensors import open_checkpoint

__all__ = ["SizedWeightSource", "StoredWeights", "num_parameters", "open_weights", "quantized_weights"]


class SizedWeightSource(WeightSource, Protocol):
    """All tensors of a model, and what they take in all."""

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, at the width they have in the file."""
        ...


class StoredWeights(SizedWeightSource, Protocol):
    """Tensors as they lie in files."""

    @property
    def files(self) -> tuple[MappedFile, ...]:
        """All of these files, in order of their names."""
        ...


def open_weights(path: Path) -> StoredWeights:
    """Opens what is there, reading headers only. Raises WeightsError naming file and tensor."""
    gguf_path = find_gguf(path)
    return open_checkpoint(path) if gguf_path is None else open_gguf_checkpoint(gguf_path)


def quantized_weights(source: SizedWeightSource, quantization: str | None) -> SizedWeightSource:
    """`source` itself, or with matrices quantised while they are read; `quantization` as the registry has it."""
    return source if quantization is None else QuantizedSource(source, quantization.upper())


def num_parameters(source: WeightSource) -> int:
    """Elements of all tensors."""
    return sum(math.prod(source.info(name).shape) for name in source.names())
