"""A cache over two tiers: room, caps, admission, and random lives of sequences over a disk that fails at random."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.cache.dense_driver import Driver, Stream
from tests.cache.small_models import BLOCK_SIZE, FULL, SLIDING, make_cache, slot_bytes
from tests.cache.tiers import MIB, NUM_RING_SLOTS, cold_stats, settled, tiered_cache
from transom.cache import CacheManager, LostBlockError, SequenceCache, TierState
from transom.config.model_config import LayerKind
from transom.errors import BudgetExceededError, ConfigError
from transom.kernels import IOFault
from transom.request import CacheOptions, CacheStrategy


def computed(
    cache: CacheManager, num_tokens: int, known: int = 0, options: CacheOptions | None = None
) -> SequenceCache:
    """A sequence of which so many tokens are computed, without anybody looking at the numbers."""
    handle = cache.open([0] * known, options)
    while handle.num_computed_tokens < num_tokens:
        count = cache.prefill_chunk(handle, num_tokens - handle.num_computed_tokens)
        extend(cache, handle, count)
    return handle


def extend(cache: CacheManager, handle: SequenceCache, count: int) -> None:
    start = handle.num_computed_tokens
    assert cache.reserve(handle, start + count)
    cache.layer_cache([(handle, start, count)])
    cache.commit(handle, start + count)
    cache.check_integrity()


def test_a_sequence_is_as_long_as_both_tiers_hold(tmp_path: Path) -> None:
    with tiered_cache(tmp_path, num_hot_slots=12, max_ssd_bytes=320 * 1024) as cache:
        longest = cache.budget.max_tokens(100_000)
        assert longest % BLOCK_SIZE == 0
        cache.check_fits(longest)
        with pytest.raises(BudgetExceededError, match=r"the budgets kv_cache_ram_mb and max_ssd_mb are .* which hold"):
            cache.check_fits(longest + 1)
        handle = computed(cache, longest)
        assert not cache.reserve(handle, longest + BLOCK_SIZE + 1)
        cache.close(handle)


@pytest.mark.parametrize("ssd_kib", [100, 104, 108])  # one slot more each
@pytest.mark.parametrize(
    ("layer_types", "num_hot_slots", "hot_tokens", "strategy"),
    [
        ((FULL, FULL, FULL), 8, None, None),
        ((FULL, FULL, FULL), 5, 128, None),
        ((FULL, FULL, FULL, SLIDING), 6, None, None),
        ((FULL, FULL, SLIDING, SLIDING), 14, 192, CacheOptions(CacheStrategy.FIFO)),
    ],
)
def test_what_is_said_to_fit_does_although_a_block_lies_in_one_tier_as_a_whole(
    tmp_path: Path,
    layer_types: tuple[LayerKind, ...],
    num_hot_slots: int,
    hot_tokens: int | None,
    strategy: CacheOptions | None,
    ssd_kib: int,
) -> None:
    cache = make_cache(
        num_hot_slots + NUM_RING_SLOTS,
        layer_types,
        sliding_window=1,
        kv_dtype="f16",
        max_ssd_bytes=ssd_kib * 1024,
        ssd_path=tmp_path / "cold",
        hot_tokens=hot_tokens,
    )
    longest = 900 if strategy else cache.budget.max_tokens(900)
    cache.check_fits(longest, strategy)
    cache.close(computed(cache, longest, options=strategy))
    cache.shut_down()


def test_nothing_is_written_as_long_as_there_is_plenty_of_ram(tmp_path: Path) -> None:
    with tiered_cache(tmp_path, num_hot_slots=27, chunk=64) as cache:
        computed(cache, 200)
        assert cold_stats(cache).transfers.num_bytes_written == 0


def test_each_block_is_written_at_most_once_and_only_when_it_is_full(tmp_path: Path) -> None:
    with tiered_cache(tmp_path, num_hot_slots=6) as cache:
        handle = computed(cache, 1000)
        for _ in range(80):
            extend(cache, handle, 1)
        transfers = cold_stats(cache).transfers
        full_blocks = 1080 // BLOCK_SIZE
        assert transfers.num_bytes_written <= full_blocks * 3 * slot_bytes()
        assert transfers.num_blocks_written <= 2 * full_blocks


@pytest.mark.parametrize("hot_tokens", [64, 128, 1000])
def test_no_sequence_has_more_tokens_in_ram_than_hot_tokens(tmp_path: Path, hot_tokens: int) -> None:
    with tiered_cache(tmp_path, num_hot_slots=27, hot_tokens=hot_tokens) as cache:
        computed(cache, 600)  # check_integrity looks at every step
        [sequence] = cache.stats().sequences
        assert sequence.num_hot_tokens <= hot_tokens
        assert sequence.num_hot_tokens + sequence.num_cold_tokens == 600


def test_two_sequences_start_together_if_both_tiers_hold_them(tmp_path: Path) -> None:
    with tiered_cache(tmp_path, num_hot_slots=12, max_ssd_bytes=640 * 1024) as cache:
        first = computed(cache, 64, known=1000)
        half = cache.open([0] * 300)
        assert cache.can_start(half)
        cache.close(half)
        whole = cache.open([0] * 1700)
        assert not cache.can_start(whole)
        cache.close(first)
        assert cache.can_start(whole)


def test_no_more_sequences_start_than_have_a_block_each_in_ram(tmp_path: Path) -> None:
    with tiered_cache(tmp_path, num_hot_slots=6) as cache:
        computed(cache, 64)
        second = cache.open([0])
        assert cache.can_start(second)
        assert not cache.can_start(cache.open([0]))


def test_chunks_grow_with_what_is_cold_and_leave_room_for_what_is_written(tmp_path: Path) -> None:
    with tiered_cache(tmp_path, num_hot_slots=27, chunk=64) as cache:
        handle = cache.open([0] * 5000)
        assert cache.prefill_chunk(handle, 5000) == 64
        lengths = []
        while handle.num_computed_tokens < 1500:
            lengths.append(cache.prefill_chunk(handle, 5000))
            extend(cache, handle, lengths[-1])
        assert max(lengths) == 2 * BLOCK_SIZE  # a third of the blocks that can leave RAM


def test_a_chunk_is_never_longer_than_what_is_wanted(tmp_path: Path) -> None:
    with tiered_cache(tmp_path) as cache:
        handle = computed(cache, 500)
        assert [cache.prefill_chunk(handle, wanted) for wanted in (1, 5)] == [1, 5]


def test_what_a_strategy_forgets_leaves_both_tiers(tmp_path: Path) -> None:
    with tiered_cache(tmp_path, num_hot_slots=6) as cache:
        handle = cache.open([], CacheOptions(CacheStrategy.KEEP_FIRST, 300, keep_first=70))
        driver = Driver(cache)
        stream = Stream(handle)
        driver.read(stream, 900)
        [sequence] = cache.stats().sequences
        assert sequence.num_evicted_tokens == handle.num_evicted_tokens == 600
        kept = [block.index for block in handle.tables[0].kept_blocks()]
        assert kept == [0, 1, *range((900 - 229) // 64, 15)]
        cache.close(handle)
        assert settled(cache).num_bytes_used == 0


def test_adaptive_keeps_its_capacity_the_first_block_and_the_recent_ones_without_a_cold_tier() -> None:
    cache = make_cache(24, chunk=64)  # two full layers: 12 blocks
    handle = cache.open([0] * 2000, CacheOptions(CacheStrategy.ADAPTIVE))
    while handle.num_computed_tokens < 2000:
        extend(cache, handle, min(64, 2000 - handle.num_computed_tokens))
    kept = [block.index for block in handle.tables[0].kept_blocks()]
    assert len(kept) == 11
    assert kept[0] == 0
    assert kept[-4:] == [28, 29, 30, 31]
    assert handle.num_evicted_tokens == (32 - 11) * 64


def test_a_closed_sequence_leaves_nothing_behind(tmp_path: Path) -> None:
    with tiered_cache(tmp_path) as cache:
        empty = cold_stats(cache).num_physical_bytes
        handles = [computed(cache, 400), computed(cache, 300)]
        for handle in handles:
            cache.close(handle)
        assert settled(cache).num_bytes_used == 0
        assert cold_stats(cache).num_physical_bytes <= empty + 2 * 4096
        cache.close(computed(cache, 400))


def test_room_that_a_write_still_reads_is_given_back_after_it(tmp_path: Path) -> None:
    with tiered_cache(tmp_path, num_hot_slots=6) as cache:
        handle = cache.open([])
        assert cache.reserve(handle, 128)
        cache.commit(handle, 128)
        other = cache.open([])
        cache.layer_cache([(handle, 128, 1)]) if cache.reserve(handle, 129) else None
        cache.close(handle)
        assert cache.reserve(other, 128)
        cache.check_integrity()


@pytest.mark.parametrize("kind", ["ENOSPC", "EIO"])
def test_a_sequence_goes_on_in_ram_when_the_disk_takes_nothing(tmp_path: Path, kind: str) -> None:
    fault = IOFault(1, kind, persistent=True)  # type: ignore[arg-type]
    with tiered_cache(tmp_path, num_hot_slots=12, fault=fault) as cache:
        handle = cache.open([])
        length = 0
        while cache.reserve(handle, length + 64):
            length += 64
            cache.commit(handle, length)
        assert length == 4 * 64
        assert cold_stats(cache).state is (TierState.PAUSED if kind == "ENOSPC" else TierState.OFF)
        assert cache.is_waiting_for_disk == (kind == "ENOSPC")
        cache.check_integrity()


def test_a_directory_is_one_servers_alone_until_it_shuts_down(tmp_path: Path) -> None:
    with tiered_cache(tmp_path), pytest.raises(ConfigError, match="locked by another server"), tiered_cache(tmp_path):
        pass
    with tiered_cache(tmp_path):
        pass


def test_a_budget_without_room_for_a_ring_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one block of 64 tokens and a staging ring of 4 slots takes"):
        make_cache(5, max_ssd_bytes=MIB, ssd_path=tmp_path / "cold")


class TiersMachine(RuleBasedStateMachine):
    """Random sequences over a disk whose n-th call fails, once or for good; every attended row is compared."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.streams: list[Stream] = []

    @initialize(
        nth=st.integers(1, 400),
        kind=st.sampled_from(["EIO", "ENOSPC", "corrupt", "short", "EINTR"]),
        persistent=st.booleans(),
        hot_tokens=st.none() | st.integers(64, 400),
        num_hot_slots=st.integers(6, 27),
        max_ssd_bytes=st.integers(200 * 1024, MIB),
    )
    def start(self, nth: int, kind: str, persistent: bool, **limits: int) -> None:
        fault = IOFault(nth, kind, persistent)  # type: ignore[arg-type]
        self.tier = tiered_cache(Path(self.directory.name), fault=fault, **limits)  # type: ignore[arg-type]
        self.driver = Driver(self.tier.__enter__())

    @precondition(lambda self: len(self.streams) < 4)
    @rule(
        strategy=st.sampled_from(
            [None, CacheOptions(CacheStrategy.SLIDING_WINDOW, 150), CacheOptions(CacheStrategy.ADAPTIVE)]
        )
    )
    def open(self, strategy: CacheOptions | None) -> None:
        self.streams.append(self.driver.open(strategy))

    @precondition(lambda self: self.streams)
    @rule(data=st.data(), prompt=st.integers(0, 150))
    def step(self, data: st.DataObject, prompt: int) -> None:
        chosen = data.draw(st.lists(st.sampled_from(self.streams), min_size=1, max_size=3, unique_by=id))
        parts = []
        for stream in chosen:
            count = self.driver.cache.prefill_chunk(stream.handle, prompt) if prompt else 1
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

    @invariant()
    def budgets_and_counts_hold(self) -> None:
        if hasattr(self, "driver"):
            self.driver.cache.check_integrity()  # arena, caps, slots, places, physical bytes

    def teardown(self) -> None:
        if hasattr(self, "driver"):
            for stream in self.streams:
                self.driver.close(stream)
            self.driver.cache.check_integrity()
            assert settled(self.driver.cache).num_bytes_used == 0
            self.tier.__exit__(None, None, None)
        self.directory.cleanup()


TestTiers = TiersMachine.TestCase
TestTiers.settings = settings(
    max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
