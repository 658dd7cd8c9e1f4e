"""Drives a cache with sequences that may share KV: what a row stores follows from all tokens up to it.

So a sequence that begins with the blocks of another must find there what it would have stored itself, and every
attended row is compared with dense attention over that.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tests.cache.dense_driver import HEAD_DIM, LAYERS, NUM_HEADS, NUM_KV_HEADS, SPECS, WINDOW, dense_attention
from tests.cache.small_models import SLIDING
from transom.cache import CacheManager, SequenceCache
from transom.layers.forward_batch import LayerCache
from transom.request import CacheOptions

Floats = NDArray[np.float32]

TEXTS = np.random.default_rng(3).integers(0, 50, (3, 2000)).tolist()


def text(*parts: tuple[int, int]) -> list[int]:
    """So many first tokens of some of the texts, one behind the other."""
    return [token for number, count in parts for token in TEXTS[number][:count]]


@dataclass(eq=False)
class Stream:
    """A sequence, its tokens, and what it has stored or found, [layers, 2, kv_heads, head_dim] by position."""

    handle: SequenceCache
    tokens: list[int]
    stored: list[Floats] = field(default_factory=list)
    length: int = 0
    names: list[int] = field(default_factory=lambda: [0])
    """By position: what stands for all tokens before it."""

    def sees(self, position: int, layer: int) -> list[int]:
        """The positions that the row at `position` attends to."""
        if LAYERS[layer] is SLIDING:
            return list(range(max(0, position - WINDOW + 1), position + 1))
        attended = self.handle.strategy.attended
        recent = range(attended.first_recent(position), position + 1)
        return sorted({*range(min(attended.keep_first, position + 1)), *recent})


@dataclass
class SharingDriver:
    """Opens and computes streams."""

    cache: CacheManager
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))
    tolerance: float = 1e-5
    _rows: dict[int, Floats] = field(default_factory=dict)

    def open(
        self,
        tokens: Sequence[int],
        options: CacheOptions | None = None,
        *,
        salt: str = "",
        may_hit: bool = True,
        trusts_cold_tier: bool = True,
    ) -> Stream:
        """A stream that begins with whatever is there."""
        known = list(tokens)
        handle = self.cache.open(known, options, salt=salt, may_hit=may_hit, trusts_cold_tier=trusts_cold_tier)
        stream = Stream(handle, known)
        stream.length = self.cache.adopt(handle)
        assert stream.length == handle.num_computed_tokens == handle.num_cached_tokens
        assert stream.length < len(known) or not known
        self._remember(stream, stream.length)
        return stream

    def close(self, stream: Stream) -> None:
        self.cache.close(stream.handle)

    def read(self, stream: Stream, num_tokens: int | None = None) -> None:
        """Computes a stream's tokens, up to so many, in chunks as the cache wants them."""
        end = len(stream.tokens) if num_tokens is None else num_tokens
        while stream.length < end:
            count = self.cache.prefill_chunk(stream.handle, end - stream.length)
            assert self.cache.reserve(stream.handle, stream.length + count)
            self.run([(stream, count)])

    def read_and_close(self, tokens: Sequence[int]) -> int:
        """What a whole request does; how many of its tokens were there."""
        stream = self.open(tokens)
        num_cached = stream.length
        self.read(stream)
        self.close(stream)
        return num_cached

    def run(self, parts: list[tuple[Stream, int]]) -> None:
        """A pass over parts whose room is reserved."""
        for stream, count in parts:
            self._remember(stream, stream.length + count)
        layer_cache: LayerCache = self.cache.layer_cache([(s.handle, s.length, count) for s, count in parts])
        for layer in range(len(LAYERS)):
            self._check_layer(layer_cache, layer, parts)
        for stream, count in parts:
            stream.length += count
            self.cache.commit(stream.handle, stream.length)

    def _check_layer(self, layer_cache: LayerCache, layer: int, parts: list[tuple[Stream, int]]) -> None:
        new = np.concatenate([np.stack(s.stored[s.length : s.length + count]) for s, count in parts])
        query = self.rng.standard_normal((len(new), NUM_HEADS, HEAD_DIM), dtype=np.float32)
        key, value = (np.ascontiguousarray(new[:, layer, which]) for which in (0, 1))
        got = layer_cache.attend(layer, query, key, value, SPECS[layer])
        ends = itertools.accumulate(count for _, count in parts)
        for (stream, count), end in zip(parts, ends, strict=True):
            all_rows = np.stack(stream.stored)
            for row in {0, count // 2, count - 1}:
                index, seen = end - count + row, stream.sees(stream.length + row, layer)
                keys, values = all_rows[:, layer, 0], all_rows[:, layer, 1]
                expected = dense_attention(query[index], keys, values, seen, SPECS[layer])
                np.testing.assert_allclose(got[index], expected, atol=self.tolerance)

    def _remember(self, stream: Stream, num_tokens: int) -> None:
        """What the tokens up to there store."""
        del stream.stored[num_tokens:]
        for position in range(len(stream.stored), num_tokens):
            del stream.names[position + 1 :]
            stream.names.append(hash((stream.names[position], stream.tokens[position])))
            stream.stored.append(self._row(stream.names[position + 1]))

    def _row(self, seed: int) -> Floats:
        if seed not in self._rows:
            shape = (len(LAYERS), 2, NUM_KV_HEADS, HEAD_DIM)
            self._rows[seed] = np.random.default_rng(seed % 2**63).standard_normal(shape, dtype=np.float32)
        return self._rows[seed]
