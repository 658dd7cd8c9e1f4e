"""Attention over both tiers against plain dense attention over everything a sequence ever stored."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tests.cache.dense_driver import HEAD_DIM, LAYERS, NUM_HEADS, NUM_KV_HEADS, SPECS, Driver, Stream
from tests.cache.small_models import KVDtype, make_cache, slot_bytes
from tests.cache.tiers import cold_stats, tiered_cache
from transom.cache import LostBlockError, PagedLayerCache
from transom.cache.tiered_layer_cache import TieredLayerCache
from transom.request import CacheOptions, CacheStrategy

SLOW = pytest.mark.slow
ADAPTIVE = CacheOptions(CacheStrategy.ADAPTIVE)


@pytest.mark.parametrize("num_hot_slots", [3, pytest.param(6, marks=SLOW), 12, pytest.param(24, marks=SLOW)])
@pytest.mark.parametrize(("kv_dtype", "tolerance"), [("f32", 1e-5), ("f16", 5e-3), ("q8_0", 5e-2)])
def test_a_prompt_and_what_follows_attend_to_cold_blocks_as_to_hot_ones(
    tmp_path: Path, num_hot_slots: int, kv_dtype: KVDtype, tolerance: float
) -> None:
    with tiered_cache(tmp_path, num_hot_slots=num_hot_slots, kv_dtype=kv_dtype) as cache:
        driver = Driver(cache, tolerance=tolerance)
        stream = driver.open()
        driver.read(stream, 700)
        for _ in range(5):
            driver.step([(stream, 1)])
        assert cold_stats(cache).transfers.num_bytes_read > 0


def test_hot_and_cold_sequences_share_a_batch(tmp_path: Path) -> None:
    with tiered_cache(tmp_path, num_hot_slots=27) as cache:
        driver = Driver(cache)
        streams = [driver.open() for _ in range(4)]
        for stream, length in zip(streams, (500, 20, 300, 64), strict=True):
            driver.read(stream, length)
        for counts in [(1, 1, 1, 1), (30, 1, 1, 1), (1, 1, 64, 1), (1, 1, 1, 1)]:
            driver.step(list(zip(streams, counts, strict=True)))
        assert any(stream.handle.needs_rounds for stream in streams)
        assert not all(stream.handle.needs_rounds for stream in streams)


def test_a_batch_without_cold_blocks_takes_the_path_it_takes_without_a_cold_tier(tmp_path: Path) -> None:
    with tiered_cache(tmp_path) as cache:
        handle = cache.open([])
        assert cache.reserve(handle, 100)
        assert isinstance(cache.layer_cache([(handle, 0, 100)]), PagedLayerCache)


def test_each_cold_byte_is_read_once_per_layer_and_step(tmp_path: Path) -> None:
    with tiered_cache(tmp_path, num_hot_slots=9) as cache:
        driver = Driver(cache)
        stream = driver.open()
        driver.read(stream, 650)  # no block of the sliding layer leaves its window in the steps that are counted
        for _ in range(3):
            driver.step([(stream, 1)])
        before = cold_stats(cache).transfers.num_bytes_read
        for _ in range(10):
            driver.step([(stream, 1)])
        num_cold_slots = sum(table.num_cold_blocks * table.group.num_layers for table in stream.handle.tables)
        assert cold_stats(cache).transfers.num_bytes_read - before == 10 * num_cold_slots * slot_bytes()


def test_a_decode_step_that_reads_many_blocks_uses_only_the_ring(tmp_path: Path) -> None:
    with tiered_cache(tmp_path, num_hot_slots=6, chunk=64) as cache:
        driver = Driver(cache)
        stream = driver.open()
        driver.read(stream, 1000)
        assert cache.stats().num_bytes_total == 10 * slot_bytes() + cold_stats(cache).num_bytes_total
        assert sum(table.num_cold_blocks for table in stream.handle.tables) > 12


@pytest.mark.parametrize("damage", ["zeroed", "cut off"])
def test_bytes_that_do_not_come_back_right_end_the_pass_and_name_the_sequence(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    with tiered_cache(tmp_path, num_hot_slots=9) as cache:
        driver = Driver(cache)
        hot, cold = driver.open(), driver.open()
        driver.read(cold, 400)
        driver.read(hot, 30)
        for path in (tmp_path / "cold").glob("*.kv"):
            size = path.stat().st_size
            os.truncate(path, 0)
            os.truncate(path, size if damage == "zeroed" else 0)
        lost = step_until_lost(driver, [(hot, 1), (cold, 1)])
        assert lost.handles == (cold.handle,)
        driver.close(cold)
        driver.run([(hot, 1)])
        transfers = cold_stats(cache).transfers
        assert (transfers.num_checksum_failures > 0) == (damage == "zeroed")
        assert (transfers.num_read_errors > 0) == (damage == "cut off")
        assert "computed again" in caplog.text


def step_until_lost(driver: Driver, parts: list[tuple[Stream, int]]) -> LostBlockError:
    """Bytes that were read ahead may still be right for a step or two."""
    for stream, count in parts:
        assert driver.cache.reserve(stream.handle, stream.length + count)
    with pytest.raises(LostBlockError) as caught:
        for _ in range(3):
            driver.run(parts)
            for stream, count in parts:
                assert driver.cache.reserve(stream.handle, stream.length + count)
    return caught.value


def test_a_pass_that_is_given_up_leaves_no_trace(tmp_path: Path) -> None:
    with tiered_cache(tmp_path, num_hot_slots=9) as cache:
        driver = Driver(cache)
        stream = driver.open()
        driver.read(stream, 400)
        assert cache.reserve(stream.handle, 401)
        for _ in range(3):
            abandoned = cache.layer_cache([(stream.handle, 400, 1)])
            assert isinstance(abandoned, TieredLayerCache)
        key = driver.rows(1, NUM_KV_HEADS)
        abandoned.attend(0, driver.rows(1, NUM_HEADS), key, key, SPECS[0])
        driver.run([(stream, 1)])


@pytest.mark.parametrize("has_cold_tier", [True, False])
def test_attention_mass_finds_the_block_that_is_attended_to(tmp_path: Path, has_cold_tier: bool) -> None:
    """All keys are zero but those of block 3, which every query points at."""
    with tiered_cache(tmp_path, num_hot_slots=20) as tiered:
        cache = tiered if has_cold_tier else make_cache(60, LAYERS, 90)
        handle = cache.open([], ADAPTIVE)
        for start in range(0, 640, 64):
            assert cache.reserve(handle, start + 64)
            layer_cache = cache.layer_cache([(handle, start, 64)])
            query = np.full((64, NUM_HEADS, HEAD_DIM), 3.0, np.float32)
            key = np.full((64, NUM_KV_HEADS, HEAD_DIM), float(start == 192), np.float32)
            for layer, spec in enumerate(SPECS):
                layer_cache.attend(layer, query, key, key, spec)
            cache.commit(handle, start + 64)
        mass = handle.tables[0].mass
        assert int(np.argmax(mass)) == 3
        assert mass[3] > 4 * np.delete(mass, 3).max()
        if has_cold_tier:
            hot = [block.index for block in handle.tables[0].hot_blocks()]
            assert 3 in hot  # others left before it
            assert len(hot) < 10
