"""A model and its cache without scheduler, worker process or text: raw logits, as tests of exactness want them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transom.cache import CacheManager, SequenceCache
from transom.cache.file_system import FileSystem
from transom.config.engine_config import resolve
from transom.config.registry_config import ModelEntry
from transom.engine.model_identity import ModelIdentity
from transom.layers.forward_batch import AttentionSpec, ForwardBatch
from transom.models import Model, build
from transom.registry.model_files import read_model_config
from transom.request import CacheOptions
from transom.weights.loader import WeightLoader
from transom.weights.sources import open_weights


@dataclass
class Stream:
    """One token stream in the harness: its tokens so far with KV, and its cache handle."""

    handle: SequenceCache
    num_computed_tokens: int = 0


class Harness:
    """Computes chosen chunks of chosen streams and returns the logits of every row."""

    def __init__(
        self,
        directory: Path,
        *,
        kv_dtype: str = "f32",
        kv_cache_ram_mb: int = 64,
        architecture: Mapping[str, Any] | None = None,
        file_system: FileSystem | None = None,
        clock: Callable[[], float] = time.monotonic,
        model: Model | None = None,
        outlives: bool = False,
        **limits: Any,
    ) -> None:
        """`architecture` changes fields of the ModelConfig, `limits` are fields of the EngineConfig.

        `directory` may be a GGUF file. `model` is one that another harness built from the same directory. With
        `outlives` what is on SSD is there for the next harness, too.
        """
        entry = ModelEntry.model_validate(
            {
                "id": "under-test",
                "path": str(directory),
                "tier_config": {"kv_dtype": kv_dtype, "kv_cache_ram_mb": kv_cache_ram_mb},
            }
        )
        own_config = replace(read_model_config(directory), **(architecture or {}))
        self.model_config, engine_config = resolve(entry, own_config, num_threads=2)
        self.engine_config = replace(engine_config, **{"enable_prefix_cache": False, **limits})
        self.model: Model = model or build(self.model_config, WeightLoader(open_weights(directory)))
        identity = ModelIdentity(self.model_config, self.engine_config, open_weights(directory).files)
        self.cache = CacheManager(
            self.model_config,
            self.engine_config,
            identify=identity if outlives else None,
            file_system=file_system,
            clock=clock,
        )

    def open(self, token_ids: Sequence[int] = (), options: CacheOptions | None = None) -> Stream:
        """A new stream; `token_ids` are what the cache may know of its future. Empty, unless it reuses prefixes."""
        stream = Stream(self.cache.open(token_ids, options))
        stream.num_computed_tokens = self.cache.adopt(stream.handle)
        return stream

    def close(self, stream: Stream) -> None:
        """Gives the stream's blocks back."""
        self.cache.close(stream.handle)

    def fill(self, stream: Stream, num_tokens: int) -> None:
        """Gives a fresh stream random keys and values, at the price of attention without the matrix products."""
        config, rng = self.model_config, np.random.default_rng(0)
        assert self.cache.reserve(stream.handle, num_tokens)
        for start in range(0, num_tokens, 512):
            count = min(512, num_tokens - start)
            layer_cache = self.cache.layer_cache([(stream.handle, start, count)])
            heads = rng.standard_normal((count, config.num_attention_heads, config.head_dim), dtype=np.float32)
            for layer in range(config.num_hidden_layers):
                key_value = heads[:, : config.num_key_value_heads]
                layer_cache.attend(layer, heads, key_value, key_value, AttentionSpec(scale=1.0))
            self.cache.commit(stream.handle, start + count)
        stream.num_computed_tokens = num_tokens

    def step(
        self, parts: Sequence[tuple[Stream, Sequence[int]]], *, last_row_only: bool = False
    ) -> list[NDArray[np.float32]]:
        """One forward pass over the next tokens of several streams.

        Logits [n, vocab_size] for each part, or with `last_row_only` one array [1, vocab_size] of the last row of all.
        """
        for stream, tokens in parts:
            assert self.cache.reserve(stream.handle, stream.num_computed_tokens + len(tokens))
        lengths = [len(tokens) for _, tokens in parts]
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        positions = [stream.num_computed_tokens + np.arange(len(tokens)) for stream, tokens in parts]
        batch = ForwardBatch(
            token_ids=np.concatenate([np.asarray(tokens) for _, tokens in parts]).astype(np.int32),
            positions=np.concatenate(positions).astype(np.int32),
            sequence_starts=starts,
            logit_rows=np.arange(starts[-1], dtype=np.int32)[-1 if last_row_only else 0 :],
            cache=self.cache.layer_cache([(s.handle, s.num_computed_tokens, len(tokens)) for s, tokens in parts]),
        )
        logits = self.model.forward(batch)
        for stream, tokens in parts:
            stream.num_computed_tokens += len(tokens)
            self.cache.commit(stream.handle, stream.num_computed_tokens)
        if last_row_only:
            return [logits]
        return [logits[a:b] for a, b in itertools.pairwise(starts)]

    def logits(self, tokens: Sequence[int], chunk: int | None = None) -> NDArray[np.float32]:
        """Logits [len(tokens), vocab_size] of one fresh stream, computed in chunks."""
        stream = self.open()
        size = chunk or len(tokens)
        rows = [self.step([(stream, tokens[i : i + size])])[0] for i in range(0, len(tokens), size)]
        self.close(stream)
        return np.concatenate(rows)
