"""Depths and lengths of a benchmark."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transom.cli.bench.plan import Lengths, check_depths, default_depths, expected_seconds
from transom.errors import ConfigError


@given(st.integers(1, 300_000))
def test_default_points_fit_every_context_window(context_window: int) -> None:
    lengths = Lengths.of(max(context_window, 3), None, None)
    depths = default_depths(context_window - lengths.num_tokens)
    assert depths[0] == 0
    assert list(depths) == sorted(set(depths))
    assert depths[-1] + lengths.num_tokens <= max(context_window, lengths.num_tokens)


def test_default_depths_end_where_the_context_window_does() -> None:
    assert default_depths(7647) == (0, 1024, 4096, 7168)
    assert default_depths(32223) == (0, 1024, 4096, 16384, 31744)
    assert default_depths(500) == (0,)


def test_depths_are_taken_in_order_and_once() -> None:
    assert check_depths((4096, 0, 4096), Lengths(512, 32), 8192) == (0, 4096)


@pytest.mark.parametrize("depth", [-1, 7648])
def test_a_depth_without_room_behind_it_is_refused(depth: int) -> None:
    with pytest.raises(ConfigError, match="must be 0 to 7647, so that 545 tokens behind it fit"):
        check_depths((0, depth), Lengths(512, 32), 8192)


def test_lengths_beyond_the_context_window_are_refused() -> None:
    with pytest.raises(ConfigError, match="do not fit the context window of 256 tokens"):
        Lengths.of(256, 200, 60)


def test_what_the_next_depth_takes_grows_with_its_distance_and_its_rounds() -> None:
    lengths = Lengths(500, 50)
    once = expected_seconds(1000, 1, lengths, 100.0, 10.0)
    assert once == pytest.approx(1.3 * (10 + 5 + 5))
    assert expected_seconds(1000, 3, lengths, 100.0, 10.0) == pytest.approx(once + 1.3 * 20)
    assert expected_seconds(2000, 1, lengths, 100.0, 10.0) == pytest.approx(once + 13)
