"""Rates are those of the kernels, within what any machine can do."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from transom.engine import machine_speed
from transom.engine.machine_speed import best_seconds, last_cache_bytes, measure_attention, measure_matrix

MIB = 2**20


@pytest.fixture(autouse=True)
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quick rather than right."""
    monkeypatch.setattr(machine_speed, "_LEAST_STREAM_BYTES", 2 * MIB)
    monkeypatch.setattr(machine_speed, "_MOST_STREAM_BYTES", 2 * MIB)
    monkeypatch.setattr(machine_speed, "_PIECE_BYTES", MIB // 2)


@pytest.mark.parametrize("dtype", ["f32", "bf16", "q8_0", "iq4_xs"])
def test_products_of_every_kind_of_weights_have_rates(dtype: str) -> None:
    speed = measure_matrix(dtype)  # type: ignore[arg-type]
    assert 1e7 < speed.bytes_per_second < 1e13
    assert 1e7 < speed.cached_bytes_per_second < 1e13
    assert 1e7 < speed.multiply_adds_per_second < 1e15
    assert 0 <= speed.call_seconds < 0.1


@pytest.mark.parametrize("kv_dtype", ["f32", "f16", "q8_0"])
def test_attention_has_rates_for_every_type_of_keys(kv_dtype: str) -> None:
    speed = measure_attention(6, 2, 40, kv_dtype)  # type: ignore[arg-type]
    assert 1e6 < speed.bytes_per_second < 1e13
    assert 1e6 < speed.multiply_adds_per_second < 1e15


def test_a_call_is_timed_often_and_the_slow_half_does_not_count() -> None:
    durations = itertools.chain([0.0], itertools.cycle([0.0, 0.0, 0.02]))
    calls: list[float] = []

    def call() -> None:
        calls.append(next(durations))

    assert best_seconds(call, rounds=5) < 0.01
    assert len(calls) == 6


def test_the_largest_cache_is_found_in_what_the_system_tells(tmp_path: Path) -> None:
    for index, size in enumerate(("48K", "2048K", "30720K")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(f"{size}\n")
    assert last_cache_bytes(tmp_path) == 30 * MIB
    assert last_cache_bytes(tmp_path / "nothing") == 32 * MIB
