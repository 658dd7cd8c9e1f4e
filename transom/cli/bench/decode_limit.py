"""How fast a model could write if nothing but reading memory took time."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from transom.config.kv_size import kv_bytes_per_token_by_kind
from transom.config.model_config import LayerKind, ModelConfig
from transom.request import CacheOptions, CacheStrategy
from transom.weights.loader import WeightSource
from transom.weights.sources import SizedWeightSource

LEAST_BYTES = 128 * 2**20
"""What is smaller may lie in the processor's caches, of which memory says nothing."""

_EXPERT = re.compile(r"\.experts\.\d+\.")
_EMBEDDING = re.compile(r"(^|\.)embed_tokens\.weight$")
_WINDOWED = (CacheStrategy.SLIDING_WINDOW, CacheStrategy.KEEP_FIRST)


@dataclass(frozen=True, slots=True)
class DecodeBytes:
    """What one token of a sequence reads."""

    weights: int
    kv_per_token: Mapping[LayerKind, int]
    attention_window: int | None

    @classmethod
    def of(cls, model_config: ModelConfig, kv_dtype: str, source: SizedWeightSource) -> DecodeBytes:
        """Reads headers of the weights only."""
        per_token = kv_bytes_per_token_by_kind(model_config, kv_dtype)
        return cls(weights_per_token(model_config, source), per_token, model_config.sliding_window)

    def at(self, depth: int, cache: CacheOptions) -> int:
        """Bytes of weights, and of keys and values behind `depth` tokens."""
        return self.weights + sum(
            num_bytes * min(depth, self._visible(kind, cache) or depth) for kind, num_bytes in self.kv_per_token.items()
        )

    def limit(self, depth: int, cache: CacheOptions, memory_bytes_per_second: float) -> float | None:
        """Tokens per second; None where caches may hold all of it."""
        num_bytes = self.at(depth, cache)
        return None if num_bytes < LEAST_BYTES else memory_bytes_per_second / num_bytes

    def _visible(self, kind: LayerKind, cache: CacheOptions) -> int | None:
        if kind is LayerKind.SLIDING_ATTENTION:
            return self.attention_window
        return cache.window_size if cache.strategy in _WINDOWED else None


def weights_per_token(model_config: ModelConfig, source: WeightSource) -> int:
    """Bytes of the weights that one token reads: of an embedding that is no head, a row; of the experts, the chosen."""
    total = 0
    for name in source.names():
        num_bytes = source.info(name).nbytes
        if _EMBEDDING.search(name) and not model_config.tie_word_embeddings:
            continue
        if model_config.experts is not None and _EXPERT.search(name):
            num_bytes = num_bytes * model_config.experts.num_experts_per_tok // model_config.experts.num_experts
        total += num_bytes
    return total
