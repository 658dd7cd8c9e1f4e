"""Huge-page memory."""

from __future__ import annotations

import numpy as np
import psutil
import pytest

from transom.kernels import allocate_arena, measure_read_bandwidth


@pytest.mark.parametrize("num_bytes", [1, 4096, 5000, (2 << 20) - 1, 2 << 20, (5 << 20) + 3])
def test_an_arena_has_the_asked_size_is_page_aligned_zero_and_writable(num_bytes: int) -> None:
    arena = allocate_arena(num_bytes)
    assert arena.dtype == np.uint8
    assert arena.shape == (num_bytes,)
    assert arena.ctypes.data % 4096 == 0
    assert not arena.any()
    arena[:] = 1
    assert arena.all()


def test_a_large_arena_starts_on_a_huge_page() -> None:
    assert allocate_arena(3 << 20).ctypes.data % (2 << 20) == 0


def test_an_empty_arena_is_an_empty_array() -> None:
    assert allocate_arena(0).shape == (0,)


def test_a_view_keeps_the_arena_alive() -> None:
    view = allocate_arena(3 << 20)[-10:]
    view[:] = 7
    allocate_arena(3 << 20)
    assert (view == 7).all()


def test_memory_goes_back_to_the_system_with_the_last_reference() -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    for _ in range(10):
        allocate_arena(32 << 20)[:] = 1
    assert process.memory_info().rss - before < 64 << 20


def test_an_impossible_size_is_a_memory_error() -> None:
    with pytest.raises(MemoryError):
        allocate_arena(1 << 62)


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(TypeError):
        allocate_arena(-1)


def test_the_bandwidth_of_the_memory_is_plausible() -> None:
    assert 1e8 < measure_read_bandwidth(16 << 20) < 1e13


def test_a_bandwidth_is_not_measured_on_nothing() -> None:
    with pytest.raises(ValueError, match="one MiB"):
        measure_read_bandwidth(1000)
