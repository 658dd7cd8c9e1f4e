"""Prefix reuse: what is found, what is shared, what makes room, and that nobody sees anything but the right rows."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.cache.dense_driver import LAYERS, WINDOW
from tests.cache.sharing_driver import SharingDriver, Stream, text
from tests.cache.small_models import make_cache
from tests.cache.tiers import MIB, cold_stats, tiered_cache
from transom.cache import CacheManager, LostBlockError
from transom.kernels import IOFault
from transom.request import CacheOptions, CacheStrategy


def ram_cache(num_slots: int = 60, **settings: object) -> CacheManager:
    """Two full layers and a sliding one; a block of all takes 3 slots."""
    return make_cache(num_slots, LAYERS, WINDOW, enable_prefix_cache=True, **settings)  # type: ignore[arg-type]


def num_full_blocks(cache: CacheManager) -> int:
    """That open sequences use in full-attention layers."""
    return cache.stats().kinds[0].num_blocks_used


@pytest.mark.parametrize(("num_tokens", "num_cached"), [(64, 0), (65, 64), (200, 192), (192, 191), (256, 255)])
def test_a_prompt_that_comes_again_computes_only_what_is_behind_its_whole_blocks(
    num_tokens: int, num_cached: int
) -> None:
    driver = SharingDriver(ram_cache())
    assert driver.read_and_close(text((0, num_tokens))) == 0
    expected = 63 if num_tokens == 64 else num_cached  # a whole prompt: all but its last token
    assert driver.read_and_close(text((0, num_tokens))) == expected
    driver.cache.check_integrity()


def test_the_common_beginning_of_two_prompts_is_found_and_nothing_behind_it() -> None:
    driver = SharingDriver(ram_cache())
    driver.read_and_close(text((0, 200)))
    assert driver.read_and_close(text((0, 150), (1, 100))) == 128
    assert driver.read_and_close(text((1, 100), (0, 150))) == 0
    assert driver.read_and_close(text((0, 150), (1, 100), (2, 60))) == 192


def test_two_running_sequences_share_the_blocks_of_their_common_beginning() -> None:
    driver = SharingDriver(ram_cache())
    first = driver.open(text((0, 192), (1, 30)))
    driver.read(first)
    num_used = num_full_blocks(driver.cache)
    second = driver.open(text((0, 192), (2, 30)))
    assert second.length == 192
    assert num_full_blocks(driver.cache) == num_used
    driver.read(second)
    assert num_full_blocks(driver.cache) == num_used + 1
    driver.cache.check_integrity()
    driver.close(first)
    driver.read(second)
    driver.close(second)
    driver.cache.check_integrity()


def test_nobody_finds_what_was_computed_under_another_salt() -> None:
    driver = SharingDriver(ram_cache())
    for salt in ("a", "b", ""):
        stream = driver.open(text((0, 200)), salt=salt)
        assert stream.length == 0
        driver.read(stream)
        driver.close(stream)
    assert driver.open(text((0, 200)), salt="a").length == 192


def test_a_sequence_may_refuse_what_is_there_and_still_leaves_its_own() -> None:
    driver = SharingDriver(ram_cache())
    first = driver.open(text((0, 200)), may_hit=False)
    driver.read(first)
    driver.close(first)
    assert driver.open(text((0, 200)), may_hit=False).length == 0
    assert driver.open(text((0, 200))).length == 192


def test_without_the_prefix_cache_nothing_stays() -> None:
    driver = SharingDriver(make_cache(60, LAYERS, WINDOW))
    driver.read_and_close(text((0, 200)))
    assert driver.cache.stats().num_blocks_used == 0
    assert driver.read_and_close(text((0, 200))) == 0


def test_the_first_to_publish_a_block_is_the_one_that_counts_it() -> None:
    driver = SharingDriver(ram_cache())
    first, second = driver.open(text((0, 200))), driver.open(text((0, 200)))
    driver.read(first)
    driver.read(second)
    assert (first.handle.published_blocks, second.handle.published_blocks) == ([0, 1, 2], [])
    third = driver.open(text((0, 192), (1, 70)))
    driver.read(third)
    assert third.handle.published_blocks == [3]


def test_of_a_sliding_layer_only_the_window_at_the_end_of_the_hit_must_be_there() -> None:
    cache = ram_cache(33)  # 11 blocks of all kinds
    driver = SharingDriver(cache)
    driver.read_and_close(text((0, 640)))
    stream = driver.open(text((0, 400), (1, 20)))
    assert stream.length == 384
    [first] = [table.block(0) for table in stream.handle.tables if not table.group.is_full]
    assert first is None
    driver.read(stream)
    cache.check_integrity()


def test_reuse_data_makes_room_for_whatever_runs_its_tails_first() -> None:
    cache = ram_cache(36)
    driver = SharingDriver(cache)
    driver.read_and_close(text((0, 320)))
    driver.read_and_close(text((1, 320)))
    driver.read_and_close(text((2, 320)))
    cache.check_integrity()
    assert driver.read_and_close(text((2, 320), (0, 10))) == 320
    cached = driver.open(text((0, 320), (1, 10))).length
    assert cached < 320


def test_the_longest_sequence_of_all_finds_room_among_reuse_data() -> None:
    cache = ram_cache(36)
    longest = cache.budget.max_tokens(2000)
    driver = SharingDriver(cache)
    for number in (0, 1, 0):
        driver.read_and_close(text((number, longest)))
        cache.check_integrity()


def test_a_whole_prompt_as_large_as_the_arena_computes_its_last_block_again() -> None:
    cache = make_cache(6, enable_prefix_cache=True)
    driver_tokens = text((0, 192))
    handle = cache.open(driver_tokens)
    assert cache.adopt(handle) == 0
    assert cache.reserve(handle, 192)
    cache.commit(handle, 192)
    cache.close(handle)
    handle = cache.open(driver_tokens)
    assert cache.adopt(handle) == 128  # there is no room for a copy
    assert cache.reserve(handle, 192)
    cache.check_integrity()


@pytest.mark.parametrize(
    "options",
    [CacheOptions(CacheStrategy.SLIDING_WINDOW, 150), CacheOptions(CacheStrategy.KEEP_FIRST, 150, 20)],
)
def test_what_was_computed_after_something_was_forgotten_is_nobody_elses(options: CacheOptions) -> None:
    driver = SharingDriver(ram_cache())
    first = driver.open(text((0, 400)), options)
    driver.read(first)
    driver.close(first)
    stream = driver.open(text((0, 400)))
    assert stream.length == 128
    driver.read(stream)
    driver.close(stream)
    again = driver.open(text((0, 400)), options)
    assert again.length == 128  # what it would have seen whole, too
    driver.read(again)


def test_a_strategy_that_follows_measured_attention_computes_everything_itself() -> None:
    driver = SharingDriver(ram_cache())
    driver.read_and_close(text((0, 200)))
    assert driver.open(text((0, 200)), CacheOptions(CacheStrategy.ADAPTIVE)).length == 0


def test_a_sequence_begins_once() -> None:
    cache = ram_cache()
    handle = cache.open([0] * 100)
    assert cache.reserve(handle, 10)
    with pytest.raises(ValueError, match="has begun already"):
        cache.adopt(handle)


def test_a_hit_on_ssd_is_used_where_it_is(tmp_path: Path) -> None:
    with tiered_cache(tmp_path, num_hot_slots=18, enable_prefix_cache=True) as cache:
        driver = SharingDriver(cache)
        first = driver.open(text((0, 640)))
        driver.read(first)
        driver.close(first)
        written = cold_stats(cache).transfers.num_bytes_written
        stream = driver.open(text((0, 640), (1, 3)))
        assert stream.length == 640
        assert any(table.num_cold_blocks for table in stream.handle.tables)
        read_before = cold_stats(cache).transfers.num_bytes_read
        driver.read(stream)
        cache.check_integrity()
        assert cold_stats(cache).transfers.num_bytes_read > read_before
        assert cold_stats(cache).transfers.num_bytes_written < written + 200_000
        driver.close(stream)


def test_whoever_does_not_trust_the_ssd_begins_with_what_is_in_ram(tmp_path: Path) -> None:
    with tiered_cache(tmp_path, num_hot_slots=18, enable_prefix_cache=True) as cache:
        driver = SharingDriver(cache)
        driver.read_and_close(text((0, 640)))
        stream = driver.open(text((0, 640)), trusts_cold_tier=False)
        assert stream.length == 0  # the oldest blocks left RAM first
        driver.close(stream)
        assert driver.open(text((0, 640))).length == 639


def test_a_lost_block_is_found_by_nobody_again(tmp_path: Path) -> None:
    with tiered_cache(tmp_path, num_hot_slots=18, enable_prefix_cache=True) as cache:
        driver = SharingDriver(cache)
        driver.read_and_close(text((0, 640)))
        file = tmp_path / "cold" / "cold-full.kv"
        size = file.stat().st_size
        os.truncate(file, 0)  # whatever was in the file is gone
        os.truncate(file, size)
        stream = driver.open(text((0, 640), (1, 3)))
        assert cache.reserve(stream.handle, 643)
        with pytest.raises(LostBlockError):
            driver.run([(stream, 3)])
        driver.close(stream)
        cache.check_integrity()
        again = driver.open(text((0, 640), (1, 3)), trusts_cold_tier=False)
        driver.read(again)
        driver.close(again)
        cache.check_integrity()


class ReuseMachine(RuleBasedStateMachine):
    """Random sequences with common beginnings, over RAM alone or a disk whose n-th call fails."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.streams: list[Stream] = []
        self.can_fail = False

    @initialize(
        nth=st.none() | st.integers(1, 300),
        kind=st.sampled_from(["EIO", "ENOSPC", "corrupt", "short"]),
        persistent=st.booleans(),
        hot_tokens=st.none() | st.integers(64, 400),
        num_hot_slots=st.integers(9, 27),
        max_ssd_bytes=st.just(0) | st.integers(200 * 1024, MIB),
    )
    def start(
        self,
        nth: int | None,
        kind: str,
        persistent: bool,
        hot_tokens: int | None,
        num_hot_slots: int,
        max_ssd_bytes: int,
    ) -> None:
        self.tier = None
        self.can_fail = nth is not None
        if max_ssd_bytes == 0:
            cache = ram_cache(num_hot_slots)
        else:
            self.tier = tiered_cache(
                Path(self.directory.name),
                fault=None if nth is None else IOFault(nth, kind, persistent),  # type: ignore[arg-type]
                enable_prefix_cache=True,
                hot_tokens=hot_tokens,
                num_hot_slots=num_hot_slots,
                max_ssd_bytes=max_ssd_bytes,
            )
            cache = self.tier.__enter__()
        self.driver = SharingDriver(cache)

    @precondition(lambda self: len(self.streams) < 4)
    @rule(
        first=st.tuples(st.integers(0, 2), st.sampled_from([1, 60, 64, 128, 192, 200, 256])),
        second=st.tuples(st.integers(0, 2), st.sampled_from([0, 1, 64, 130, 192])),
        strategy=st.sampled_from(
            [None, None, CacheOptions(CacheStrategy.SLIDING_WINDOW, 150), CacheOptions(CacheStrategy.ADAPTIVE)]
        ),
        salt=st.sampled_from(["", "", "", "other"]),
        trusts=st.sampled_from([True, True, False]),
    )
    def open(
        self, first: tuple[int, int], second: tuple[int, int], strategy: CacheOptions | None, salt: str, trusts: bool
    ) -> None:
        if self.tier is None and strategy is not None and strategy.strategy is CacheStrategy.ADAPTIVE:
            strategy = None  # which rows it forgets, attention decides: these rows are random
        tokens = text(first, second)
        self.streams.append(self.driver.open(tokens, strategy, salt=salt, trusts_cold_tier=trusts))

    @precondition(lambda self: self.streams)
    @rule(data=st.data(), prompt=st.sampled_from([1, 30, 64, 150]))
    def step(self, data: st.DataObject, prompt: int) -> None:
        chosen = data.draw(st.lists(st.sampled_from(self.streams), min_size=1, max_size=3, unique_by=id))
        parts = []
        for stream in chosen:
            if stream.length == len(stream.tokens):
                stream.tokens.append(data.draw(st.integers(0, 1)))
            wanted = min(prompt, len(stream.tokens) - stream.length)
            count = self.driver.cache.prefill_chunk(stream.handle, wanted)
            if self.driver.cache.reserve(stream.handle, stream.length + count):
                parts.append((stream, count))
        self.run(parts)

    def run(self, parts: list[tuple[Stream, int]]) -> None:
        """Whoever lost blocks is closed; the others repeat the pass."""
        try:
            if parts:
                self.driver.run(parts)
        except LostBlockError as error:
            for stream in [stream for stream, _ in parts if stream.handle in error.handles]:
                self.close_stream(stream)
            self.run([part for part in parts if part[0] in self.streams])

    @precondition(lambda self: self.streams)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        self.close_stream(data.draw(st.sampled_from(self.streams)))

    def close_stream(self, stream: Stream) -> None:
        self.driver.close(stream)
        self.streams.remove(stream)

    @precondition(lambda self: hasattr(self, "driver") and not self.streams and not self.can_fail)
    @rule(number=st.integers(0, 2), short_by=st.integers(0, 70))
    def compute_the_longest_alone(self, number: int, short_by: int) -> None:
        """Reuse data never keeps anybody from what the budgets promise."""
        longest = self.driver.cache.budget.max_tokens(700) - short_by
        self.driver.read_and_close(text((number, max(1, longest))))

    @invariant()
    def budgets_and_counts_hold(self) -> None:
        if hasattr(self, "driver"):
            self.driver.cache.check_integrity()

    def teardown(self) -> None:
        if hasattr(self, "driver"):
            for stream in self.streams:
                self.driver.close(stream)
            self.driver.cache.check_integrity()
            if self.tier is not None:
                self.tier.__exit__(None, None, None)
        self.directory.cleanup()


TestReuse = ReuseMachine.TestCase
TestReuse.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
