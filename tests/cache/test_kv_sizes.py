"""`KVSizes` beside real caches: no sequence ever takes more, and shares of it fit side by side."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cache.dense_driver import LAYERS, WINDOW
from tests.cache.small_models import FULL, SLIDING, make_model_config, slot_bytes
from transom.cache import CacheManager, KVSizes, SequenceCache
from transom.config.engine_config import EngineConfig
from transom.config.kv_size import cold_slot_bytes
from transom.layers.forward_batch import AttentionSpec
from transom.request import CacheOptions, CacheStrategy, KVBytes

MIB = 2**20


def engine_config(directory: Path, *, num_slots: int = 40, ssd_mib: int = 0, **more: object) -> EngineConfig:
    return EngineConfig(
        model_path=Path("none"),
        context_window=8192,
        kv_dtype="f32",
        kv_cache_ram_bytes=num_slots * slot_bytes(),
        max_ram_bytes=None,
        num_threads=1,
        max_num_batched_tokens=128,
        ssd_path=directory / "cold" if ssd_mib else None,
        max_ssd_bytes=ssd_mib * MIB,
        enable_prefix_cache=False,
        **more,  # type: ignore[arg-type]
    )


STRATEGIES = [
    CacheOptions(),
    CacheOptions(CacheStrategy.SLIDING_WINDOW, 200),
    CacheOptions(CacheStrategy.KEEP_FIRST, 200, 70),
    CacheOptions(CacheStrategy.FIFO),
    CacheOptions(CacheStrategy.ADAPTIVE),
]


def grow(cache: CacheManager, handle: SequenceCache, num_tokens: int, size: KVBytes) -> KVBytes:
    """Computes so many tokens in chunks; the most bytes that were used meanwhile, by tier."""
    most, start = KVBytes(), 0
    while start < num_tokens:
        count = cache.prefill_chunk(handle, min(128, num_tokens - start))
        assert count > 0
        assert cache.reserve(handle, start + count)
        most = _larger(most, _used(cache, size))
        _attend(cache, handle, start, count)
        cache.commit(handle, start + count)
        most = _larger(most, _used(cache, size))
        start += count
    return most


def _attend(cache: CacheManager, handle: SequenceCache, start: int, count: int) -> None:
    view = cache.layer_cache([(handle, start, count)])
    rng = np.random.default_rng(start)
    for layer, kind in enumerate(LAYERS):
        query, key, value = (rng.standard_normal((count, heads, 8), np.float32) for heads in (4, 2, 2))
        view.attend(layer, query, key, value, AttentionSpec(scale=0.3, window=WINDOW if kind is SLIDING else None))


def _used(cache: CacheManager, size: KVBytes) -> KVBytes:
    """What is on its way to SSD counts in RAM until it has arrived: for a moment, after which all is within `size`."""
    deadline = time.monotonic() + 5
    while True:
        tiers = cache.stats().tiers
        used = KVBytes(tiers[0].num_bytes_used, tiers[1].num_bytes_used if len(tiers) > 1 else 0)
        if used.is_within(size) or time.monotonic() > deadline:
            return used
        time.sleep(0.001)


def _larger(one: KVBytes, other: KVBytes) -> KVBytes:
    return KVBytes(max(one.ram, other.ram), max(one.ssd, other.ssd))


@pytest.mark.parametrize("options", STRATEGIES, ids=lambda options: options.strategy.value)
@pytest.mark.parametrize(("ssd_mib", "hot_tokens"), [(0, None), (4, None), (4, 192)])
def test_no_sequence_takes_more_than_its_size(
    tmp_path: Path, options: CacheOptions, ssd_mib: int, hot_tokens: int | None
) -> None:
    limits = engine_config(tmp_path, ssd_mib=ssd_mib, hot_tokens=hot_tokens)
    model = make_model_config(LAYERS, WINDOW)
    sizes, cache = KVSizes.of(model, limits), CacheManager(model, limits)
    try:
        for num_tokens in (1, 64, 65, 500, 700):
            if not cache.budget.fits(num_tokens):
                continue
            handle = cache.open(list(range(num_tokens)), options)
            size = sizes.of_sequence(num_tokens, options)
            used = grow(cache, handle, num_tokens, size)
            cache.close(handle)
            assert KVBytes(ram=1).is_within(used)
            assert used.is_within(size), num_tokens
    finally:
        cache.shut_down()


def test_hot_tokens_bound_what_counts_in_ram_and_nothing_is_on_an_ssd_that_is_not_there(tmp_path: Path) -> None:
    model = make_model_config((FULL, FULL))
    capped = KVSizes.of(model, engine_config(tmp_path, ssd_mib=4, hot_tokens=128))
    assert capped.of_sequence(1000, CacheOptions()) == KVBytes(
        2 * 2 * slot_bytes(), 16 * 2 * cold_slot_bytes(slot_bytes())
    )
    plain = KVSizes.of(model, engine_config(tmp_path))
    assert plain.of_sequence(1000, CacheOptions()) == KVBytes(16 * 2 * slot_bytes(), 0)
    assert plain.of_sequence(10**6, CacheOptions()) == plain.room == KVBytes(40 * slot_bytes(), 0)
    assert plain.smallest == KVBytes(2 * slot_bytes(), 0)


@given(
    most=st.builds(KVBytes, st.integers(0, 60 * slot_bytes()), st.integers(0, 200 * 4096)),
    options=st.sampled_from(STRATEGIES),
    has_ssd=st.booleans(),
    limit=st.integers(1, 3000),
)
def test_the_longest_sequence_within_bounds_fits_and_a_longer_one_does_not(
    most: KVBytes, options: CacheOptions, has_ssd: bool, limit: int
) -> None:
    limits = engine_config(Path("x"), ssd_mib=4 if has_ssd else 0)
    sizes = KVSizes.of(make_model_config(LAYERS, WINDOW), limits)
    longest = sizes.max_tokens(most, options, limit)
    assert 0 <= longest <= limit
    assert longest == 0 or sizes.of_sequence(longest, options).is_within(most)
    assert longest == limit or not sizes.of_sequence(longest + 1, options).is_within(most)
