"""States of short convolutions against one convolution over the whole sequence, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.cache.small_models import FULL, SLIDING, make_model_config, slot_bytes
from transom import kernels
from transom.cache import CacheManager, ConvStateStats
from transom.cache.conv_states import MAX_REWOUND_ROWS, ConvStates
from transom.cache.layer_group import layer_groups
from transom.cache.sequence_cache import SequenceCache
from transom.config.engine_config import EngineConfig
from transom.config.features import ShortConvolution
from transom.config.kv_size import conv_state_bytes
from transom.config.model_config import LayerKind, ModelConfig
from transom.errors import ConfigError, EngineError

Floats = NDArray[np.float32]
CONV = LayerKind.SHORT_CONV
KINDS = (CONV, FULL, CONV, CONV)
CONV_LAYERS = (0, 2, 3)
HIDDEN = 32
MAX_NUM_SEQS = 3


def hybrid(num_taps: int = 3) -> ModelConfig:
    """Three convolutions and one layer with attention."""
    return replace(make_model_config(KINDS), short_conv=ShortConvolution(num_taps))


@dataclass(eq=False)
class Stream:
    """A sequence, and the inputs of all its tokens in each convolution layer."""

    handle: SequenceCache
    inputs: dict[int, Floats]
    outputs: dict[int, list[Floats]] = field(default_factory=lambda: {layer: [] for layer in CONV_LAYERS})


class Driver:
    """Passes over chosen chunks of chosen streams."""

    def __init__(self, num_taps: int = 3, has_bias: bool = True) -> None:
        self.config = hybrid(num_taps)
        self.states = ConvStates(self.config, MAX_NUM_SEQS)
        self.rng = np.random.default_rng(num_taps)
        self.taps = {layer: self.rows(num_taps) for layer in CONV_LAYERS}
        self.bias = self.rows(1)[0] if has_bias else None
        self.handles: list[SequenceCache] = []
        """Those that are open."""

    def rows(self, count: int) -> Floats:
        return self.rng.standard_normal((count, HIDDEN), dtype=np.float32)

    def open(self, num_tokens: int = 60) -> Stream:
        return self._open({layer: self.rows(num_tokens) for layer in CONV_LAYERS})

    def close(self, stream: Stream) -> None:
        self.states.close(stream.handle)
        self.handles.remove(stream.handle)

    def reopen(self, stream: Stream) -> Stream:
        """The same tokens, computed again from the first."""
        self.close(stream)
        return self._open(stream.inputs)

    def _open(self, inputs: dict[int, Floats]) -> Stream:
        self.handles.append(SequenceCache(layer_groups(self.config), []))
        return Stream(self.handles[-1], inputs)

    def run(
        self, parts: Sequence[tuple[Stream, int]], *, kept: Sequence[int] | None = None, is_void: bool = False
    ) -> None:
        """One pass, of which the first `kept` rows of each part are committed; a void one is not."""
        kept = kept or [count for _, count in parts]
        begun = self.states.begin([(s.handle, s.handle.num_computed_tokens, count) for s, count in parts])
        for layer in CONV_LAYERS:
            slices = [slice(s.handle.num_computed_tokens, s.handle.num_computed_tokens + n) for s, n in parts]
            x = np.concatenate([s.inputs[layer][part] for (s, _), part in zip(parts, slices, strict=True)])
            mixed = begun.convolve(layer, x, self.taps[layer], self.bias)
            ends = np.cumsum([count for _, count in parts])
            for (stream, count), end, num_kept in zip(parts, ends, kept, strict=True):
                if not is_void:
                    stream.outputs[layer].append(mixed[end - count :][:num_kept])
        if not is_void:
            self.commit([(stream, num_kept) for (stream, _), num_kept in zip(parts, kept, strict=True)])

    def commit(self, parts: Sequence[tuple[Stream, int]]) -> None:
        for stream, count in parts:
            num_tokens = stream.handle.num_computed_tokens + count
            self.states.commit(stream.handle, num_tokens)
            stream.handle.num_computed_tokens = num_tokens
        self.states.check_integrity(self.handles)

    def check(self, stream: Stream) -> None:
        """What came out is what one pass over everything gives."""
        count = stream.handle.num_computed_tokens
        starts = np.array([0, count], np.int32)
        for layer in CONV_LAYERS:
            history = np.zeros((1, len(self.taps[layer]) - 1, HIDDEN), np.float32)
            whole = kernels.short_conv(stream.inputs[layer][:count], history, starts, self.taps[layer], self.bias)
            assert np.array_equal(np.concatenate(stream.outputs[layer]), whole)


@pytest.mark.parametrize("chunk", [1, 2, 7])
@pytest.mark.parametrize("num_taps", [1, 2, 3, 5])
def test_chunks_change_no_bit(chunk: int, num_taps: int) -> None:
    driver = Driver(num_taps, has_bias=num_taps % 2 == 0)
    stream = driver.open()
    for start in range(0, 60, chunk):
        driver.run([(stream, min(chunk, 60 - start))])
    driver.check(stream)


def test_neighbours_of_any_length_change_no_bit() -> None:
    driver = Driver()
    first, second, third = driver.open(), driver.open(), driver.open()
    driver.run([(first, 5)])
    driver.run([(second, 1), (first, 1)])
    driver.run([(first, 2), (third, 9), (second, 4)])
    driver.run([(third, 1), (second, 1), (first, 1)])
    for stream in (first, second, third):
        driver.check(stream)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 8), st.booleans()), max_size=12), st.integers(1, 5))
def test_any_turns_with_void_passes_change_no_bit(turns: list[tuple[int, int, bool]], num_taps: int) -> None:
    driver = Driver(num_taps)
    streams = [driver.open(120) for _ in range(MAX_NUM_SEQS)]
    for index, count, is_void in turns:
        if is_void:
            driver.run([(streams[index], count)], is_void=True)
        driver.run([(streams[index], count), (streams[index - 1], 1)])
    for stream in streams:
        if stream.handle.num_computed_tokens:
            driver.check(stream)


def test_a_void_pass_leaves_no_trace_even_if_the_next_one_is_shorter_and_of_fewer_sequences() -> None:
    driver = Driver()
    stream, neighbour = driver.open(), driver.open()
    driver.run([(stream, 4), (neighbour, 4)])
    driver.run([(stream, 9), (neighbour, 2)], is_void=True)
    driver.run([(stream, 3)])
    driver.run([(neighbour, 2), (stream, 1)])
    driver.check(stream)
    driver.check(neighbour)


def test_a_preempted_sequence_is_the_same_when_computed_again_in_a_place_that_others_used() -> None:
    driver = Driver()
    stream, neighbour = driver.open(), driver.open()
    driver.run([(stream, 20), (neighbour, 3)])
    again = driver.reopen(stream)
    late = driver.open()
    driver.run([(late, 7), (neighbour, 1)])
    driver.run([(again, 11), (late, 1), (neighbour, 5)])
    driver.run([(again, 9)])
    driver.check(again)
    assert all(
        np.array_equal(np.concatenate(stream.outputs[layer]), np.concatenate(again.outputs[layer]))
        for layer in CONV_LAYERS
    )


def test_closing_twice_and_closing_what_was_never_computed_change_nothing() -> None:
    driver = Driver()
    stream = driver.open()
    driver.states.close(stream.handle)
    driver.run([(stream, 2)])
    for _ in range(2):
        driver.states.close(stream.handle)
    driver.states.check_integrity([])


def test_more_sequences_than_max_num_seqs_are_refused_and_one_that_ends_makes_room() -> None:
    driver = Driver()
    streams = [driver.open() for _ in range(MAX_NUM_SEQS)]
    driver.run([(stream, 1) for stream in streams])
    late = driver.open()
    with pytest.raises(EngineError, match="more than 3 sequences"):
        driver.run([(late, 1)])
    driver.close(streams[1])
    driver.run([(late, 6)])
    driver.check(late)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 9), st.integers(1, 9)), max_size=12), st.integers(1, 5))
def test_passes_of_which_a_part_is_committed_change_no_bit(turns: list[tuple[int, int, int]], num_taps: int) -> None:
    driver = Driver(num_taps)
    streams = [driver.open(130) for _ in range(MAX_NUM_SEQS)]
    for index, count, num_kept in turns:
        driver.run(
            [(streams[index - 1], 1), (streams[index], count), (streams[index - 2], 3)],
            kept=[1, min(count, num_kept), 2],
        )
    for stream in streams:
        if stream.handle.num_computed_tokens:
            driver.check(stream)


@pytest.mark.parametrize(("count", "num_tokens"), [(5, 6), (MAX_REWOUND_ROWS + 1, 8), (1, 2)])
def test_what_a_pass_did_not_reach_or_no_longer_knows_cannot_be_committed(count: int, num_tokens: int) -> None:
    driver = Driver()
    stream = driver.open()
    driver.states.begin([(stream.handle, 0, count)])
    with pytest.raises(ValueError, match=f"cannot commit {num_tokens} tokens"):
        driver.states.commit(stream.handle, num_tokens)


def test_the_check_finds_a_state_of_a_closed_sequence() -> None:
    driver = Driver()
    stream = driver.open()
    driver.run([(stream, 1)])
    with pytest.raises(AssertionError, match="a closed sequence has a state"):
        driver.states.check_integrity([])


def test_a_model_without_convolutions_keeps_nothing_and_convolves_nothing() -> None:
    states = ConvStates(make_model_config((FULL, SLIDING), 100), 8)
    assert states.num_bytes == 0
    assert states.stats() is None
    begun = states.begin([(SequenceCache((), []), 0, 5)])
    with pytest.raises(KeyError):
        begun.convolve(0, np.zeros((5, HIDDEN), np.float32), np.zeros((3, HIDDEN), np.float32), None)


def cache_of(kv_cache_ram_bytes: int, **limits: Any) -> CacheManager:
    engine_config = EngineConfig(
        model_path=Path("no-weights"),
        context_window=8192,
        kv_dtype="f32",
        kv_cache_ram_bytes=kv_cache_ram_bytes,
        max_ram_bytes=None,
        num_threads=1,
        **limits,
    )
    return CacheManager(hybrid(), engine_config)


@pytest.mark.parametrize("spare_bytes", [0, 1, 777])
@pytest.mark.parametrize("max_num_seqs", [1, 4, 32])
def test_arena_and_states_together_are_never_more_than_the_budget(max_num_seqs: int, spare_bytes: int) -> None:
    state_bytes = max_num_seqs * conv_state_bytes(hybrid())
    assert state_bytes == max_num_seqs * 2 * len(CONV_LAYERS) * 2 * HIDDEN * 4
    num_bytes = state_bytes + 5 * slot_bytes() + spare_bytes
    cache = cache_of(num_bytes, max_num_seqs=max_num_seqs)
    assert cache.budget.num_slots == 5
    assert cache.stats().tiers[0].num_bytes_total + state_bytes == num_bytes - spare_bytes
    cache.check_integrity()


def test_the_statistics_tell_who_has_states_and_what_they_take() -> None:
    cache = cache_of(2**20, max_num_seqs=4)
    of_one = conv_state_bytes(hybrid())
    assert cache.stats().conv_states == ConvStateStats(len(CONV_LAYERS), 0, 4, 0, 4 * of_one)
    handles = [cache.open([]) for _ in range(3)]
    for handle in handles[:2]:
        assert cache.reserve(handle, 1)
        cache.layer_cache([(handle, 0, 1)])
    assert cache.stats().conv_states == ConvStateStats(len(CONV_LAYERS), 2, 4, 2 * of_one, 4 * of_one)
    for handle in handles:
        cache.close(handle)
    assert cache.stats().conv_states == ConvStateStats(len(CONV_LAYERS), 0, 4, 0, 4 * of_one)


def test_a_budget_without_room_for_the_states_is_refused_with_what_is_needed() -> None:
    state_bytes = 8 * conv_state_bytes(hybrid())
    with pytest.raises(ConfigError, match=r"the states of the convolutions, .* the key needs at least 1"):
        cache_of(state_bytes + slot_bytes() - 1, max_num_seqs=8)
    cache_of(state_bytes + slot_bytes(), max_num_seqs=8).check_integrity()


def test_a_cache_manager_commits_and_forgets_states_with_its_blocks() -> None:
    cache = cache_of(2**20, max_num_seqs=2)
    rng = np.random.default_rng(0)
    x, taps = (rng.standard_normal((count, HIDDEN), dtype=np.float32) for count in (6, 3))
    outputs = []
    for _ in range(5):  # more sequences than states, one after the other
        handle = cache.open([])
        assert cache.reserve(handle, 6)
        rows = []
        for start in range(0, 6, 2):
            cache.layer_cache([(handle, start, 2)])  # void
            view = cache.layer_cache([(handle, start, 2)])
            rows.append(view.convolve(2, x[start : start + 2], taps, None))
            cache.commit(handle, start + 2)
            cache.check_integrity()
        outputs.append(np.concatenate(rows))
        cache.close(handle)
        cache.check_integrity()
    assert all(np.array_equal(each, outputs[0]) for each in outputs)
