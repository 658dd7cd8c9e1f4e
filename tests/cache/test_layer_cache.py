"""Attention through the block tables against plain dense attention over everything a sequence ever stored."""

from __future__ import annotations

import numpy as np
import pytest

from tests.cache.dense_driver import HEAD_DIM, LAYERS, NUM_HEADS, NUM_KV_HEADS, SPECS, WINDOW, Driver
from tests.cache.small_models import SLIDING, KVDtype, make_cache
from transom.cache import PagedLayerCache
from transom.layers.forward_batch import AttentionSpec


@pytest.mark.parametrize("chunk", [1, 7, 63, 64, 65, 128])
def test_a_sequence_in_chunks_attends_to_all_it_stored(chunk: int) -> None:
    driver = Driver(make_cache(60, LAYERS, WINDOW, chunk=chunk))
    stream = driver.open()
    while stream.length < 200:
        driver.step([(stream, chunk)])


@pytest.mark.parametrize(("kv_dtype", "tolerance"), [("f32", 1e-5), ("f16", 5e-3), ("q8_0", 5e-2)])
def test_sequences_of_different_lengths_in_one_batch_do_not_see_each_other(kv_dtype: KVDtype, tolerance: float) -> None:
    driver = Driver(make_cache(80, LAYERS, WINDOW, kv_dtype=kv_dtype), tolerance=tolerance)
    streams = [driver.open() for _ in range(4)]
    for counts in [(130, 1, 64, 30), (1, 1, 1, 40), (1, 90, 1, 1), (1, 1, 1, 1)]:
        driver.step(list(zip(streams, counts, strict=True)))


def test_blocks_that_others_left_behind_are_never_read() -> None:
    """Whoever had the slots before filled them with NaN, which would show in any sum it entered."""
    cache = make_cache(12, LAYERS, WINDOW, chunk=256)
    poisoner = cache.open([])
    assert cache.reserve(poisoner, 256)
    layer_cache = cache.layer_cache([(poisoner, 0, 256)])
    nan = np.full((256, NUM_KV_HEADS, HEAD_DIM), np.nan, dtype=np.float32)
    query = np.ones((256, NUM_HEADS, HEAD_DIM), dtype=np.float32)
    for layer, spec in enumerate(SPECS):
        layer_cache.attend(layer, query, nan, nan, spec)
    cache.close(poisoner)
    driver = Driver(cache)
    stream = driver.open()
    for count in (1, 62, 1, 1, 50, 1):
        driver.step([(stream, count)])


def test_random_batches_with_sequences_that_come_and_go() -> None:
    driver = Driver(make_cache(60, LAYERS, WINDOW, chunk=60))
    rng = np.random.default_rng(3)
    streams = [driver.open() for _ in range(3)]
    for _ in range(25):
        chosen = [stream for stream in streams if rng.random() < 0.7] or streams[:1]
        driver.step([(stream, int(rng.integers(1, 60)) if rng.random() < 0.3 else 1) for stream in chosen])
        if rng.random() < 0.2 or max(stream.length for stream in streams) > 300:
            oldest = max(streams, key=lambda stream: stream.length)
            driver.cache.close(oldest.handle)
            streams[streams.index(oldest)] = driver.open()


def test_a_layer_without_keys_and_values_is_refused() -> None:
    cache = make_cache(10)
    handle = cache.open([])
    assert cache.reserve(handle, 1)
    rows = np.zeros((1, NUM_HEADS, HEAD_DIM), dtype=np.float32)
    with pytest.raises(KeyError):
        cache.layer_cache([(handle, 0, 1)]).attend(2, rows, rows[:, :2], rows[:, :2], SPECS[0])


def test_a_wider_window_than_the_cache_keeps_is_refused() -> None:
    cache = make_cache(20, (SLIDING,), 64)
    handle = cache.open([])
    assert cache.reserve(handle, 200)
    cache.commit(handle, 199)
    rows = np.zeros((1, NUM_HEADS, HEAD_DIM), dtype=np.float32)
    with pytest.raises(ValueError, match="slot"):
        cache.layer_cache([(handle, 199, 1)]).attend(0, rows, rows[:, :2], rows[:, :2], AttentionSpec(1.0, window=140))


def test_one_sequence_alone_hands_over_its_table_without_a_copy() -> None:
    cache = make_cache(80)
    handle = cache.open([])
    assert cache.reserve(handle, 64 * 30)
    table = handle.tables[0].slots(64 * 30)
    layer_cache = cache.layer_cache([(handle, 0, 64 * 30)])
    assert isinstance(layer_cache, PagedLayerCache)
    view = layer_cache._tables[0]
    assert np.shares_memory(table, view)
    assert view[1].flags.c_contiguous
