"""What keys and values are made by: weights, architecture, element types, versions of the arithmetic, NumPy.

Two engines of one identity compute the same bits from the same tokens, so one may use what the other has left on SSD.
Whatever is in doubt is part of it: a difference that changes nothing costs a computation, the other mistake an answer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from transom import kernels
from transom.config.engine_config import EngineConfig
from transom.config.model_config import ModelConfig
from transom.config.plain_data import to_plain
from transom.models import arithmetic_version
from transom.weights.fingerprint import fingerprint
from transom.weights.mapped_file import MappedFile

__all__ = ["ModelIdentity", "numpy_digest"]

_PROBES = np.linspace(0.0, 50_000.0, 4096)
"""Angles, as rotary embeddings have them."""


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """The identity of one engine, for its cache to ask for once it can remember the digests of files."""

    model_config: ModelConfig
    engine_config: EngineConfig
    files: Sequence[MappedFile]
    """All that weights are read from."""

    def __call__(self, remembered: bytes | None) -> tuple[bytes, bytes]:
        """(32 bytes, what to remember). Reads the files, unless it is remembered what is in them. WeightsError."""
        weights, to_remember = fingerprint(self.files, remembered, num_threads=self.engine_config.num_threads)
        return self._digest(weights), to_remember

    def _digest(self, weights: bytes) -> bytes:
        facts = {
            "weights": weights.hex(),
            "model": to_plain(self.model_config),
            "kv_dtype": self.engine_config.kv_dtype,
            "quantization": self.engine_config.quantization,
            "kernels": kernels.ARITHMETIC_VERSION,
            "family": arithmetic_version(self.model_config.model_type),
            "numpy": numpy_digest(),
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).digest()


def numpy_digest() -> str:
    """Tables of sines and factors come from NumPy, which may round otherwise in another version or machine."""
    results = [
        np.sin(_PROBES),
        np.cos(_PROBES),
        np.exp(-_PROBES / 5000),
        np.log1p(_PROBES),
        np.power(1e4, _PROBES / 5e4),
    ]
    return hashlib.sha256(np.concatenate(results).tobytes()).hexdigest()
