"""The SSD tier alone: writes, reads, errors, and a budget of bytes that holds at every instant."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.cache.small_models import FULL, SLIDING, make_model_config
from tests.cache.tiers import MIB
from tests.hung_disk import HungDisk
from transom.cache import TierState
from transom.cache.block import Block, BlockState
from transom.cache.cold_setup import open_cold_tier
from transom.cache.cold_store import Run
from transom.cache.cold_tier import DEADLINE_SECONDS, HUNG_DISK_SECONDS, TIMED_OUT
from transom.cache.file_system import FileSystem, RealFileSystem
from transom.cache.layer_group import layer_groups
from transom.cache.no_cold_tier import NoColdTier
from transom.config.engine_config import EngineConfig
from transom.errors import ConfigError
from transom.kernels import CHECKSUM_MISMATCH, IOFault, allocate_arena

SLOT_BYTES = 8192
NUM_SLOTS = 64
MODEL = make_model_config((FULL, SLIDING, FULL), 100)


class Clock:
    """Goes when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """A tier over an arena whose first half is full of random bytes, and whose second half is to be read into."""

    def __init__(self, directory: Path, file_system: FileSystem, max_bytes: int) -> None:
        self.clock = Clock()
        self.directory = directory
        self.arena = allocate_arena(NUM_SLOTS * SLOT_BYTES)
        self.arena[: NUM_SLOTS // 2 * SLOT_BYTES] = np.random.default_rng(1).integers(
            0, 256, NUM_SLOTS // 2 * SLOT_BYTES
        )
        self.tier = open_cold_tier(
            MODEL,
            engine_config(directory, max_bytes),
            directory,
            groups=layer_groups(MODEL),
            slot_bytes=SLOT_BYTES,
            arena=self.arena,
            file_system=file_system,
            clock=self.clock,
        ).tier

    def block(self, index: int) -> Block:
        """A sealed block of the full layers in slots 2 * index and 2 * index + 1."""
        slots = np.array([2 * index, 2 * index + 1], np.int32)
        return Block(FULL, 2, slots, start=64 * index, sealed=True)

    def write(self, *blocks: Block, run: Run | None = None) -> int:
        taken = self.tier.write(blocks, run or Run())
        while self.tier.wait():
            pass
        return taken

    def read(self, row: int, *blocks: Block) -> list[int]:
        """Errors by block; the bytes are compared where there are none."""
        places = np.array([block.cold_index for block in blocks], np.int64)
        slots = np.arange(NUM_SLOTS // 2, NUM_SLOTS // 2 + len(blocks), dtype=np.int32)
        errors = self.tier.finish_read(self.tier.read(FULL, row, places, slots))
        for block, slot, error in zip(blocks, slots, errors, strict=True):
            assert error or np.array_equal(self.slot(int(slot)), self.slot(int(block.slots[row])))
        return [int(error) for error in errors]

    def slot(self, number: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
        return self.arena[number * SLOT_BYTES : (number + 1) * SLOT_BYTES]


def engine_config(directory: Path, max_bytes: int) -> EngineConfig:
    return EngineConfig(
        model_path=Path("no-weights"),
        context_window=8192,
        kv_dtype="f32",
        kv_cache_ram_bytes=NUM_SLOTS * SLOT_BYTES,
        max_ram_bytes=None,
        num_threads=1,
        ssd_path=directory,
        max_ssd_bytes=max_bytes,
    )


@contextmanager
def bench(
    directory: Path, fault: IOFault | None = None, max_bytes: int = MIB, file_system: FileSystem | None = None
) -> Iterator[Bench]:
    made = Bench(directory / "cold", file_system or RealFileSystem(fault), max_bytes)
    try:
        yield made
    finally:
        made.tier.close()


def test_what_was_written_comes_back_layer_by_layer(tmp_path: Path) -> None:
    with bench(tmp_path) as on:
        blocks = [on.block(index) for index in range(10)]
        assert on.write(*blocks) == 10
        assert {block.state for block in blocks} == {BlockState.CLEAN}
        assert on.read(0, *blocks) == on.read(1, *blocks[::-1]) == [0] * 10
        on.tier.check_integrity(blocks)


def test_consecutive_blocks_of_a_sequence_lie_side_by_side(tmp_path: Path) -> None:
    with bench(tmp_path) as on:
        first, second, run = [on.block(0), on.block(1)], [on.block(2), on.block(3)], Run()
        on.write(*first, run=run)
        on.write(on.block(9))
        on.write(*second, run=run)
        places = [block.cold_index for block in (*first, *second)]
        assert places == list(range(places[0], places[0] + 4))


def test_a_block_is_not_clean_before_its_write_is_over(tmp_path: Path) -> None:
    with bench(tmp_path) as on:
        block = on.block(0)
        on.tier.write([block], Run())
        assert block.state is BlockState.WRITING
        assert on.tier.wait() == [block]
        assert on.tier.wait() == on.tier.poll() == []


def test_no_more_is_written_than_the_budget_holds(tmp_path: Path) -> None:
    with bench(tmp_path, max_bytes=160 * 1024) as on:
        blocks = [on.block(index) for index in range(16)]
        taken = on.write(*blocks)
        assert 5 < taken < 10
        assert on.tier.num_free_slots < 2
        assert on.tier.tiers()[0].num_physical_bytes <= 160 * 1024
        assert on.write(*blocks[taken:]) == 0
        assert on.tier.state is TierState.ON  # full by plan, not by accident
        on.tier.check_integrity(blocks)


def test_a_disk_is_not_called_full_for_what_is_being_written(tmp_path: Path) -> None:
    with bench(tmp_path, max_bytes=160 * 1024) as on:
        before = on.tier.tiers()[0].num_physical_bytes
        *most, last = [on.block(index) for index in range(on.tier.num_free_slots // 2)]
        assert on.tier.write(most, Run()) == len(most)
        while on.tier.tiers()[0].num_physical_bytes < before + len(most) * 2 * SLOT_BYTES:
            time.sleep(0.001)  # all of it is on disk, and nobody has looked yet
        taken = on.tier.write([last], Run())
        assert on.tier.state is TierState.ON
        while on.tier.wait():
            pass
        assert taken or on.write(last) == 1


def test_room_of_forgotten_blocks_goes_back_to_the_disk_and_is_used_again(tmp_path: Path) -> None:
    with bench(tmp_path, max_bytes=160 * 1024) as on:
        blocks = [on.block(index) for index in range(16)]
        taken = on.write(*blocks)
        full = on.tier.tiers()[0].num_physical_bytes
        for block in blocks[:taken]:
            assert on.tier.forget(block)
            block.ref_count = 0
        on.tier.trim()
        assert on.tier.tiers()[0].num_physical_bytes <= full - taken * 2 * SLOT_BYTES
        assert on.write(*[on.block(index) for index in range(16)]) == taken


def test_bytes_of_others_in_the_directory_are_charged(tmp_path: Path) -> None:
    with bench(tmp_path, max_bytes=256 * 1024) as on:
        (on.directory / "notes").write_bytes(b"x" * 150 * 1024)
        assert 0 < on.write(*[on.block(index) for index in range(16)]) < 8
        assert on.tier.tiers()[0].num_physical_bytes <= 256 * 1024
        assert on.tier.state is TierState.PAUSED


def test_a_directory_that_is_full_already_is_refused_at_start(tmp_path: Path) -> None:
    (tmp_path / "cold").mkdir()
    (tmp_path / "cold" / "notes").write_bytes(b"x" * 150 * 1024)
    with pytest.raises(ConfigError, match=r"max_ssd_mb is .* one block takes 24576 bytes beside the \d+ bytes"):
        Bench(tmp_path / "cold", RealFileSystem(), max_bytes=160 * 1024)
    Bench(tmp_path / "cold", RealFileSystem(), max_bytes=320 * 1024).tier.close()  # nothing is left locked


@pytest.mark.parametrize("kind", ["ENOSPC", "EDQUOT", "EFBIG"])
def test_a_full_disk_pauses_writing_and_keeps_the_blocks_in_ram(tmp_path: Path, kind: str) -> None:
    fault = IOFault(1, kind)  # type: ignore[arg-type]
    with bench(tmp_path, fault) as on:
        block = on.block(0)
        assert on.write(block) == 1
        assert (block.state, on.tier.state) == (BlockState.DIRTY, TierState.PAUSED)
        assert on.write(block) == 0
        on.clock.now += 31.0
        assert on.write(block) == 1
        assert block.state is BlockState.CLEAN
        assert on.tier.tiers()[0].transfers.num_write_errors == 1
        assert on.read(0, block) == [0]
        on.tier.check_integrity([block])


def test_a_full_disk_is_written_again_as_soon_as_it_took_bytes_back(tmp_path: Path) -> None:
    with bench(tmp_path, fault=IOFault(3, "ENOSPC")) as on:  # the second block
        first, second = on.block(0), on.block(1)
        on.write(first)
        on.write(second)
        states = (first.state, second.state, on.tier.takes_blocks)
        assert states == (BlockState.CLEAN, BlockState.DIRTY, False)
        first.ref_count = 0
        assert on.tier.forget(first)
        on.tier.trim()
        assert (on.tier.state, on.tier.takes_blocks) == (TierState.PAUSED, True)
        assert on.write(second) == 1
        assert second.state is BlockState.CLEAN


def test_a_disk_that_fails_again_and_again_is_written_to_no_more(tmp_path: Path) -> None:
    with bench(tmp_path, IOFault(1, "EIO", persistent=True)) as on:
        assert [on.write(on.block(index)) for index in range(5)] == [1, 1, 1, 0, 0]
        assert on.tier.state is TierState.OFF


@pytest.mark.parametrize(("kind", "error"), [("EIO", errno.EIO), ("corrupt", CHECKSUM_MISMATCH)])
def test_a_place_that_could_not_be_read_is_given_to_nobody_else(tmp_path: Path, kind: str, error: int) -> None:
    counting = IOFault(10**9, "EIO")
    with bench(tmp_path, counting) as on:
        on.write(on.block(0), on.block(1))
        num_writes = counting.num_calls
    with bench(tmp_path, IOFault(num_writes + 1, kind)) as on:  # type: ignore[arg-type]
        blocks = [on.block(0), on.block(1)]
        on.write(*blocks)
        errors = on.read(0, *blocks)
        assert set(errors) <= {0, error}
        bad = [block.cold_index for block, each in zip(blocks, errors, strict=True) if each]
        assert bad
        for block in blocks:
            on.tier.forget(block)
        others = [on.block(index) for index in range(2, 12)]
        on.write(*others)
        assert not {block.cold_index for block in others} & set(bad)
        transfers = on.tier.tiers()[0].transfers
        assert (transfers.num_read_errors > 0) == (kind == "EIO")
        assert (transfers.num_checksum_failures > 0) == (kind == "corrupt")


def test_a_disk_that_hangs_is_waited_for_once_and_goes_on_when_it_does(tmp_path: Path) -> None:
    disk = HungDisk()
    with bench(tmp_path, file_system=disk) as on:
        cold, hot = on.block(0), on.block(1)
        on.write(cold)
        disk.hangs = True
        assert on.read(0, cold) == on.read(1, cold) == [TIMED_OUT]
        assert disk.waits == [DEADLINE_SECONDS, HUNG_DISK_SECONDS]
        assert (on.tier.state.value, on.write(hot)) == ("paused", 0)
        disk.hangs = False
        deadline = time.monotonic() + 10
        while not on.tier.takes_blocks and time.monotonic() < deadline:
            on.tier.poll()
        assert (on.tier.state.value, on.write(hot)) == ("on", 1)
        on.tier.check_integrity([cold, hot])


def test_a_disk_that_never_goes_on_is_called_broken_in_the_end(tmp_path: Path) -> None:
    disk = HungDisk()
    with bench(tmp_path, file_system=disk) as on:
        blocks = [on.block(index) for index in range(3)]
        disk.hangs = True
        states = []
        for block in blocks:
            assert on.write(block) == 1
            states.append(on.tier.state)
            on.clock.now += 31
        assert states == [TierState.PAUSED, TierState.PAUSED, TierState.OFF]
        assert disk.waits == [DEADLINE_SECONDS, HUNG_DISK_SECONDS, HUNG_DISK_SECONDS]
        disk.hangs = False
        while on.tier.wait():
            pass
        assert on.tier.state is TierState.ON
        assert {block.state for block in blocks} == {BlockState.CLEAN}


def test_a_block_that_nobody_needs_any_more_leaves_when_its_write_is_over(tmp_path: Path) -> None:
    with bench(tmp_path) as on:
        block = on.block(0)
        on.tier.write([block], Run())
        block.ref_count = 0
        assert not on.tier.forget(block)
        assert on.tier.wait() == [block]
        on.tier.trim()
        assert on.tier.num_placed_slots == 0
        on.tier.check_integrity([])


def test_statistics_count_bytes_and_blocks(tmp_path: Path) -> None:
    with bench(tmp_path) as on:
        blocks = [on.block(index) for index in range(3)]
        on.write(*blocks)
        on.read(0, *blocks)
        [stats] = on.tier.tiers()
        assert stats.num_bytes_used == stats.transfers.num_bytes_written == 6 * SLOT_BYTES
        assert (stats.transfers.num_bytes_read, stats.transfers.num_blocks_written) == (3 * SLOT_BYTES, 3)
        assert stats.num_physical_bytes >= stats.num_bytes_used
        assert stats.num_bytes_total == MIB


def test_without_a_cold_tier_nothing_leaves_ram() -> None:
    tier = NoColdTier()
    block = Block(FULL, 2, np.array([0, 1], np.int32), start=0, sealed=True)
    assert tier.write([block], Run()) == 0
    assert tier.forget(block)
    assert (tier.num_free_slots, tier.tiers()) == (0, ())
    tier.check_integrity([block])
