"""Reuse data goes to the cold tier when it is worth it, modestly, and never in the way of anybody."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cache.sharing_driver import SharingDriver, text
from tests.cache.tiers import cold_stats, tiered_cache
from transom.cache import CacheManager
from transom.kernels import IOFault


def num_written(cache: CacheManager) -> int:
    cache.flush(5.0)
    cache.check_integrity()
    return cold_stats(cache).transfers.num_blocks_written


def test_a_long_prompt_is_written_at_once_and_only_once(tmp_path: Path) -> None:
    with tiered_cache(tmp_path, num_hot_slots=27, enable_prefix_cache=True) as cache:
        driver = SharingDriver(cache)
        driver.read_and_close(text((0, 520)))
        assert num_written(cache) == 8 + 8  # of both kinds
        driver.read_and_close(text((0, 520)))
        assert num_written(cache) == 16


def test_a_short_prompt_is_written_when_it_comes_again(tmp_path: Path) -> None:
    with tiered_cache(tmp_path, num_hot_slots=27, enable_prefix_cache=True) as cache:
        driver = SharingDriver(cache)
        driver.read_and_close(text((0, 130)))
        assert num_written(cache) == 0
        driver.read_and_close(text((0, 130)))
        assert num_written(cache) == 4


def test_a_chain_that_grows_long_is_written_whole(tmp_path: Path) -> None:
    with tiered_cache(tmp_path, num_hot_slots=27, enable_prefix_cache=True) as cache:
        driver = SharingDriver(cache)
        stream = driver.open(text((0, 300)))
        driver.read(stream)
        assert num_written(cache) < 4  # by whoever makes room ahead
        stream.tokens.extend(text((1, 220)))
        driver.read(stream)
        assert num_written(cache) == 16
        driver.close(stream)


def test_what_is_written_is_found_on_ssd_when_its_room_in_ram_was_wanted(tmp_path: Path) -> None:
    with tiered_cache(tmp_path, num_hot_slots=27, enable_prefix_cache=True) as cache:
        driver = SharingDriver(cache)
        driver.read_and_close(text((0, 520)))
        cache.flush(5.0)
        driver.read_and_close(text((1, 500)))
        assert driver.read_and_close(text((0, 520))) == 512
        assert cache.stats().reuse.num_cold_blocks > 0


@pytest.mark.parametrize("num_kib", [0, 64])
def test_no_more_reuse_data_stays_on_ssd_than_its_cap_allows(tmp_path: Path, num_kib: int) -> None:
    with tiered_cache(
        tmp_path, num_hot_slots=18, enable_prefix_cache=True, max_reuse_ssd_bytes=num_kib * 1024
    ) as cache:
        driver = SharingDriver(cache)
        for number in (0, 1, 2):
            driver.read_and_close(text((number, 640)))
            cache.flush(5.0)
            cache.check_integrity()
            assert cold_stats(cache).num_bytes_reuse <= num_kib * 1024


def test_a_disk_that_takes_nothing_is_left_alone(tmp_path: Path) -> None:
    fault = IOFault(1, "EIO", persistent=True)
    with tiered_cache(tmp_path, num_hot_slots=27, enable_prefix_cache=True, fault=fault) as cache:
        driver = SharingDriver(cache)
        errors = []
        for _ in range(3):
            driver.read_and_close(text((0, 520)))
            cache.flush(0.5)
            cache.check_integrity()
            errors.append(cold_stats(cache).transfers.num_write_errors)
        assert cold_stats(cache).transfers.num_blocks_written == 0
        assert errors[0] > 0
        assert errors[1] == errors[2]  # after a few it is asked for nothing more
