"""Cold blocks come back when there is room to spare, and never at the price of anybody else's."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.cache.dense_driver import Driver
from tests.cache.small_models import FULL
from tests.cache.tiers import cold_stats, tiered_cache
from transom.cache import CacheManager, LostBlockError
from transom.cache.block import Block, BlockState
from transom.cache.block_pool import BlockPool
from transom.cache.block_table import BlockTable
from transom.cache.cold_tier import TIMED_OUT, ColdRead
from transom.cache.layer_group import LayerGroup
from transom.cache.no_cold_tier import NoColdTier
from transom.cache.prefix_index import PrefixIndex
from transom.cache.prefix_record import NoPrefixStore
from transom.cache.promotion import Promotion
from transom.cache.publishing import Publishing
from transom.cache.reuse_room import ReuseRoom
from transom.config.model_config import LayerKind
from transom.request import CacheOptions, CacheStrategy


def crowded(cache: CacheManager) -> Driver:
    """Streams that are too much for RAM together, of which all but the first are then gone."""
    driver = Driver(cache)
    first, *others = [driver.open() for _ in range(4)]
    driver.read(first, 250)
    for other in others:
        driver.read(other, 300)
    driver.step([(first, 1)])
    assert first.handle.needs_rounds
    for other in others:
        driver.close(other)
    return driver


def decode(driver: Driver, num_steps: int) -> None:
    [stream] = [stream for stream in driver.streams if stream.handle.is_open]
    for _ in range(num_steps):
        driver.step([(stream, 1)])


def test_a_sequence_comes_back_to_ram_when_its_neighbour_is_gone(tmp_path: Path) -> None:
    with tiered_cache(tmp_path, num_hot_slots=27, chunk=64) as cache:
        driver = crowded(cache)
        num_written = cold_stats(cache).transfers.num_blocks_written
        decode(driver, 12)
        [sequence] = cache.stats().sequences
        assert (sequence.num_cold_tokens, sequence.num_hot_tokens) == (0, 263)
        num_read = cold_stats(cache).transfers.num_bytes_read
        decode(driver, 3)
        transfers = cold_stats(cache).transfers
        assert transfers.num_bytes_read == num_read
        assert transfers.num_blocks_written == num_written  # what came back is clean: it is not written again


def test_blocks_on_their_way_back_are_no_obstacle_to_others(tmp_path: Path) -> None:
    with tiered_cache(tmp_path, num_hot_slots=27, chunk=64) as cache:
        driver = crowded(cache)
        decode(driver, 1)  # begins to bring blocks back
        other = driver.open()
        driver.read(other, 400)
        decode_all = [(stream, 1) for stream in driver.streams if stream.handle.is_open]
        driver.step(decode_all)


def test_no_more_comes_back_than_hot_tokens_allows(tmp_path: Path) -> None:
    with tiered_cache(tmp_path, num_hot_slots=27, chunk=64, hot_tokens=192) as cache:
        driver = Driver(cache)
        stream = driver.open()
        driver.read(stream, 500)
        for _ in range(10):
            driver.step([(stream, 1)])  # check_integrity looks at the cap
        assert stream.handle.tables[0].num_hot_blocks <= 3


def test_a_block_that_does_not_come_back_right_stays_cold(tmp_path: Path) -> None:
    with tiered_cache(tmp_path, num_hot_slots=27, chunk=64) as cache:
        driver = crowded(cache)
        for path in (tmp_path / "cold").glob("*.kv"):
            size = path.stat().st_size
            os.truncate(path, 0)
            os.truncate(path, size)  # all zeros now
        with pytest.raises(LostBlockError, match="could not be read back"):
            decode(driver, 12)
        cache.check_integrity()
        assert cold_stats(cache).transfers.num_checksum_failures > 0


def test_a_block_that_is_attended_to_changes_places_with_one_that_is_not(tmp_path: Path) -> None:
    with tiered_cache(tmp_path, num_hot_slots=20, chunk=64) as cache:
        driver = Driver(cache)
        stream = driver.open(CacheOptions(CacheStrategy.ADAPTIVE))
        driver.read(stream, 900)
        table = stream.handle.tables[0]
        cold = [block.index for block in table.kept_blocks() if block.is_cold]
        mass = np.zeros(len(table.mass), np.float32)
        mass[cold[:2]] = 1e6
        table.add_mass(mass)
        num_hot = table.num_hot_blocks
        for _ in range(6):
            driver.step([(stream, 1)])
        hot = {block.index for block in table.hot_blocks()}
        assert set(cold[:2]) <= hot
        assert table.num_hot_blocks <= num_hot + 1


@pytest.mark.parametrize("attempt", range(4))  # a race between the disk and the caller
def test_a_sequence_that_leaves_while_its_blocks_come_back_is_no_error_of_the_disk(
    tmp_path: Path, attempt: int
) -> None:
    with tiered_cache(tmp_path, num_hot_slots=27, chunk=64) as cache:
        driver = crowded(cache)
        [first] = [stream for stream in driver.streams if stream.handle.is_open]
        assert cache.reserve(first.handle, first.length + 1)
        cache.layer_cache([(first.handle, first.length, 1)])  # begins to bring blocks back
        driver.close(first)  # its places are emptied, or belong to others
        other = driver.open()
        driver.read(other, 400 + attempt)
        transfers = cold_stats(cache).transfers
        assert (transfers.num_checksum_failures, transfers.num_read_errors) == (0, 0)


class StuckTier(NoColdTier):
    """Never gives an answer in time; what was asked for is over when the test says so."""

    is_free_again = False

    def read(
        self, kind: LayerKind, _row: int, cold_indices: NDArray[np.int64], arena_slots: NDArray[np.int32]
    ) -> ColdRead:
        return ColdRead(0, kind, cold_indices, arena_slots)

    def finish_read(self, read: ColdRead, _wanted: NDArray[np.bool_] | None = None) -> NDArray[np.int32]:
        return np.full(len(read.cold_indices), TIMED_OUT, np.int32)

    def is_over(self, _read: ColdRead) -> bool:
        return self.is_free_again


def cold_table(pool: BlockPool, num_blocks: int) -> BlockTable:
    table = BlockTable(LayerGroup(FULL, (0, 1), None))
    table.extend(pool, num_blocks * 64)
    blocks: list[Block] = list(table.kept_blocks())
    for block in blocks:
        block.state, block.cold_index = BlockState.CLEAN, block.index
        pool.demote(block)
    return table


def test_slots_into_which_a_stuck_disk_may_still_read_are_nobody_elses() -> None:
    tier = StuckTier()
    pool = BlockPool(10, tier)
    table = cold_table(pool, 3)
    room = ReuseRoom(pool, PrefixIndex(pool, Publishing(NoPrefixStore(), tier)))
    promotion = Promotion(pool, tier, room, slot_bytes=4096, max_hot_blocks=None)
    promotion.begin([table], 6)
    promotion.settle()
    promotion.take_in()
    assert (pool.num_lent_slots, pool.num_free_slots, table.num_cold_blocks) == (6, 4, 3)
    promotion.begin([table], 4)  # a disk that is stuck is asked for nothing more
    assert pool.num_lent_slots == 6
    tier.is_free_again = True
    promotion.take_in()
    assert (pool.num_lent_slots, pool.num_free_slots, table.num_cold_blocks) == (0, 10, 3)
