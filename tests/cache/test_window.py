"""What windows show is what the statistics of the same moment count."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from tests.cache.dense_driver import WINDOW, Driver
from tests.cache.small_models import FULL, SLIDING, make_cache
from tests.cache.tiers import tiered_cache
from transom.cache import BLOCK_SIZE, CacheManager, KindWindow, PlaceState, SequenceCache, SequenceWindow
from transom.cache.window import MAX_IMPORTANCE_CELLS, window_of
from transom.request import CacheOptions, CacheStrategy

HOT, WRITING, COLD, READING = PlaceState.HOT, PlaceState.WRITING, PlaceState.COLD, PlaceState.READING


def num_blocks(kind: KindWindow, *states: PlaceState) -> int:
    return sum(run.num_blocks for run in kind.runs if run.state in states)


def check_sums(window: SequenceWindow) -> None:
    """The runs of the kind that the statistics count make up their numbers."""
    stats = window.stats
    kind = next((each for each in window.kinds if each.kind is FULL), window.kinds[0])
    missing = -stats.num_tokens % BLOCK_SIZE  # of the last block
    assert num_blocks(kind, HOT, WRITING) * BLOCK_SIZE - missing == stats.num_hot_tokens
    assert num_blocks(kind, COLD, READING) * BLOCK_SIZE == stats.num_cold_tokens
    total = num_blocks(kind, HOT, WRITING, COLD, READING, PlaceState.EVICTED)
    assert total == -(-stats.num_tokens // BLOCK_SIZE)
    assert num_blocks(kind, PlaceState.EVICTED) <= stats.num_evicted_tokens / BLOCK_SIZE


def computed(cache: CacheManager, num_tokens: int, options: CacheOptions | None = None) -> SequenceCache:
    handle = cache.open([0] * num_tokens, options, name="r")
    while handle.num_computed_tokens < num_tokens:
        start = handle.num_computed_tokens
        count = cache.prefill_chunk(handle, num_tokens - start)
        assert cache.reserve(handle, start + count)
        cache.layer_cache([(handle, start, count)])
        cache.commit(handle, start + count)
    return handle


def runs_of(kind: KindWindow) -> list[tuple[PlaceState, int]]:
    return [(run.state, run.num_blocks) for run in kind.runs]


def test_a_window_in_ram_is_one_hot_run_and_what_is_reserved() -> None:
    cache = make_cache(num_slots=20)
    handle = cache.open([0] * 300, name="r")
    assert cache.reserve(handle, 300)
    cache.layer_cache([(handle, 0, 100)])
    cache.commit(handle, 100)
    [window] = cache.windows()
    assert window.stats.request_id == "r"
    [kind] = window.kinds
    assert runs_of(kind) == [(HOT, 2), (PlaceState.RESERVED, 3)]
    assert (kind.keep_first, kind.first_recent, kind.importance, kind.shared) == (0, 0, None, ())
    assert window.stats.num_hot_tokens == 100
    cache.close(handle)
    assert cache.windows() == ()


def test_a_sequence_that_has_not_begun_has_no_blocks() -> None:
    cache = make_cache(num_slots=20)
    cache.open([0] * 300)
    assert runs_of(cache.windows()[0].kinds[0]) == []


def test_blocks_on_ssd_and_in_ram_are_those_that_the_statistics_count(tmp_path: Path) -> None:
    with tiered_cache(tmp_path) as cache:
        handle = computed(cache, 1000)
        cache.stats()
        [window] = cache.windows()
        check_sums(window)
        assert window.stats == cache.stats().sequences[0]
        full, sliding = window.kinds
        assert num_blocks(full, COLD, READING) > 0
        assert num_blocks(full, HOT, WRITING) > 0
        assert sliding.kind is SLIDING
        assert sliding.first_recent == 1000 - WINDOW
        assert runs_of(sliding)[0] == (PlaceState.EVICTED, (1000 - WINDOW) // BLOCK_SIZE)
        [kind, _] = cache.stats().kinds
        assert num_blocks(full, COLD, READING) == kind.num_cold_blocks
        assert num_blocks(full, HOT, WRITING) == kind.num_blocks_used
        cache.close(handle)


def test_what_is_on_its_way_is_told_apart_and_still_counts_where_it_is(tmp_path: Path) -> None:
    with tiered_cache(tmp_path) as cache:
        handle = computed(cache, 1000)
        cold = [block for table in handle.tables for block in table.kept_blocks() if block.is_cold]
        window = window_of(handle, frozenset(cold[:2]))
        assert num_blocks(window.kinds[0], READING) == 2
        check_sums(window)
        cache.close(handle)


@pytest.mark.parametrize(
    ("options", "num_tokens", "keep_first", "first_recent"),
    [
        (CacheOptions(CacheStrategy.SLIDING_WINDOW, window_size=130), 700, 0, 570),
        (CacheOptions(CacheStrategy.KEEP_FIRST, window_size=200, keep_first=64), 700, 64, 564),
        (CacheOptions(CacheStrategy.KEEP_FIRST, window_size=200, keep_first=64), 65, 64, 0),
    ],
)
def test_the_attended_ranges_and_what_was_evicted_are_those_of_the_strategy(
    options: CacheOptions, num_tokens: int, keep_first: int, first_recent: int
) -> None:
    cache = make_cache(num_slots=40, layer_types=(FULL,))
    computed(cache, num_tokens, options)
    [window] = cache.windows()
    check_sums(window)
    kind = window.kinds[0]
    assert (kind.keep_first, kind.first_recent) == (keep_first, first_recent)
    assert num_blocks(kind, PlaceState.EVICTED) == max(0, first_recent // BLOCK_SIZE - keep_first // BLOCK_SIZE)


def test_blocks_that_the_prefix_index_names_are_shown_as_shared() -> None:
    cache = make_cache(num_slots=40, layer_types=(FULL,), enable_prefix_cache=True)
    first = cache.open(list(range(300)), name="a")
    assert cache.reserve(first, 300)
    cache.layer_cache([(first, 0, 300)])
    cache.commit(first, 300)
    second = cache.open(list(range(300)), name="b")
    assert cache.adopt(second) == 256
    a, b = cache.windows()
    assert a.kinds[0].shared == ((0, 4),)
    assert b.kinds[0].shared == ((0, 4),)
    assert (a.num_cached_tokens, b.num_cached_tokens) == (0, 256)


def test_importance_is_that_of_the_measured_mass(tmp_path: Path) -> None:
    with tiered_cache(tmp_path) as cache:
        driver = Driver(cache, np.random.default_rng(1))
        stream = driver.open(CacheOptions(CacheStrategy.ADAPTIVE))
        driver.read(stream, 500)
        [window] = cache.windows()
        full, sliding = window.kinds
        assert full.importance is not None
        assert sliding.importance is None
        mass = stream.handle.tables[0].mass
        assert full.importance.blocks_per_cell == 1
        np.testing.assert_allclose(full.importance.shares, mass / mass.sum(), atol=1e-5)
        check_sums(window)
        cache.close(stream.handle)


def test_a_window_of_a_million_tokens_is_small_and_quickly_told() -> None:
    cache = make_cache(num_slots=16_500, layer_types=(FULL,))
    handle = cache.open([0] * 2**20, CacheOptions(CacheStrategy.ADAPTIVE))
    table = handle.tables[0]
    assert cache.reserve(handle, 2**20)
    handle.num_computed_tokens = 2**20
    table.add_mass(np.random.default_rng(0).random(2**14).astype(np.float32))
    started = time.perf_counter()
    window = window_of(handle, frozenset())
    assert time.perf_counter() - started < 0.5
    kind = window.kinds[0]
    assert runs_of(kind) == [(HOT, 2**14)]
    assert kind.importance is not None
    assert kind.importance.blocks_per_cell == 2**14 // MAX_IMPORTANCE_CELLS
    assert len(kind.importance.shares) == MAX_IMPORTANCE_CELLS
    assert sum(kind.importance.shares) == pytest.approx(1, abs=0.01)
