"""Drives a cache with random rows and compares every result with dense attention over all that was ever stored."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tests.cache.small_models import FULL, SLIDING
from transom.cache import CacheManager, SequenceCache
from transom.layers.forward_batch import AttentionSpec, LayerCache
from transom.request import CacheOptions

Floats = NDArray[np.float32]

NUM_HEADS, NUM_KV_HEADS, HEAD_DIM = 4, 2, 8
WINDOW = 90
LAYERS = (FULL, SLIDING, FULL)
SPECS = tuple(AttentionSpec(HEAD_DIM**-0.5, WINDOW if kind is SLIDING else None) for kind in LAYERS)


def dense_attention(query: Floats, keys: Floats, values: Floats, seen: Sequence[int], spec: AttentionSpec) -> Floats:
    """One row [heads, D] over the positions it sees of keys and values [tokens, kv_heads, D], in float64."""
    group = NUM_HEADS // NUM_KV_HEADS
    seen_keys = np.repeat(keys[seen].astype(np.float64), group, axis=1)
    seen_values = np.repeat(values[seen].astype(np.float64), group, axis=1)
    scores = np.einsum("hd,nhd->hn", query.astype(np.float64), seen_keys) * spec.scale
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    attended: Floats = np.einsum("hn,nhd->hd", weights, seen_values).astype(np.float32)
    return attended


@dataclass(eq=False)
class Stream:
    """A sequence and a copy of all it stored, by layer."""

    handle: SequenceCache
    keys: list[list[Floats]] = field(default_factory=lambda: [[] for _ in LAYERS])
    values: list[list[Floats]] = field(default_factory=lambda: [[] for _ in LAYERS])
    length: int = 0

    def sees(self, position: int, layer: int) -> list[int]:
        """The positions that the row at `position` attends to."""
        if LAYERS[layer] is SLIDING:
            return list(range(max(0, position - WINDOW + 1), position + 1))
        attended = self.handle.strategy.attended
        recent = range(attended.first_recent(position), position + 1)
        return sorted({*range(min(attended.keep_first, position + 1)), *recent})

    def forget_rows(self) -> None:
        """What a pass that failed had stored is void."""
        for rows in (*self.keys, *self.values):
            while sum(map(len, rows)) > self.length:
                rows.pop()


@dataclass
class Driver:
    """Runs forward passes of random rows over several streams and compares every row."""

    cache: CacheManager
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))
    tolerance: float = 1e-5
    streams: list[Stream] = field(default_factory=list)
    """All that were ever opened."""

    def open(self, options: CacheOptions | None = None) -> Stream:
        self.streams.append(Stream(self.cache.open([], options)))
        return self.streams[-1]

    def close(self, stream: Stream) -> None:
        self.cache.close(stream.handle)

    def rows(self, count: int, heads: int) -> Floats:
        return self.rng.standard_normal((count, heads, HEAD_DIM), dtype=np.float32)

    def step(self, parts: list[tuple[Stream, int]]) -> None:
        for stream, count in parts:
            assert self.cache.reserve(stream.handle, stream.length + count)
        self.run(parts)

    def run(self, parts: list[tuple[Stream, int]]) -> None:
        """A pass over parts whose room is reserved."""
        for stream, _ in parts:
            stream.forget_rows()
        layer_cache: LayerCache = self.cache.layer_cache([(s.handle, s.length, count) for s, count in parts])
        for layer in range(len(LAYERS)):
            self.check_layer(layer_cache, layer, parts)
        for stream, count in parts:
            stream.length += count
            self.cache.commit(stream.handle, stream.length)
        self.cache.check_integrity()

    def read(self, stream: Stream, num_tokens: int) -> None:
        """Brings a stream to so many tokens in chunks as the cache wants them."""
        while stream.length < num_tokens:
            self.step([(stream, self.cache.prefill_chunk(stream.handle, num_tokens - stream.length))])

    def check_layer(self, layer_cache: LayerCache, layer: int, parts: list[tuple[Stream, int]]) -> None:
        num_rows = sum(count for _, count in parts)
        query = self.rows(num_rows, NUM_HEADS)
        key, value = self.rows(num_rows, NUM_KV_HEADS), self.rows(num_rows, NUM_KV_HEADS)
        got = layer_cache.attend(layer, query, key, value, SPECS[layer])
        ends = itertools.accumulate(count for _, count in parts)
        for (stream, count), end in zip(parts, ends, strict=True):
            stream.keys[layer].append(key[end - count : end])
            stream.values[layer].append(value[end - count : end])
            keys, values = np.concatenate(stream.keys[layer]), np.concatenate(stream.values[layer])
            for row in range(count):
                index, seen = end - count + row, stream.sees(stream.length + row, layer)
                expected = dense_attention(query[index], keys, values, seen, SPECS[layer])
                np.testing.assert_allclose(got[index], expected, atol=self.tolerance)
