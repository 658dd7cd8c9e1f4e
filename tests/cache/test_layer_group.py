"""Layer kinds and what each of them has to keep."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.cache.small_models import BLOCK_SIZE, FULL, SLIDING, make_model_config
from transom.cache.layer_group import LayerGroup, layer_groups
from transom.config.model_config import LayerKind


def test_layers_are_grouped_by_kind_in_order_of_appearance() -> None:
    groups = layer_groups(make_model_config((SLIDING, SLIDING, FULL, SLIDING), sliding_window=100))
    assert groups == (LayerGroup(SLIDING, (0, 1, 3), 100), LayerGroup(FULL, (2,), None))


def test_layers_without_keys_and_values_belong_to_no_group() -> None:
    groups = layer_groups(make_model_config((LayerKind.SHORT_CONV, FULL, LayerKind.SHORT_CONV)))
    assert groups == (LayerGroup(FULL, (1,), None),)


def test_a_full_layer_keeps_everything() -> None:
    group = LayerGroup(FULL, (0,), None)
    assert group.first_visible_block(100_000) == 0
    assert group.peak_blocks(100_000, chunk=1) == 1563


@given(window=st.integers(1, 300), num_computed=st.integers(0, 1000))
def test_the_first_visible_block_holds_the_oldest_position_that_the_next_token_sees(
    window: int, num_computed: int
) -> None:
    visible = range(max(0, num_computed - window + 1), num_computed + 1)
    assert LayerGroup(SLIDING, (0,), window).first_visible_block(num_computed) == visible[0] // BLOCK_SIZE


@given(window=st.integers(1, 300), chunk=st.integers(1, 300), num_tokens=st.integers(1, 1500))
def test_the_peak_of_a_sliding_layer_covers_every_chunk_and_no_more_than_window_and_chunk(
    window: int, chunk: int, num_tokens: int
) -> None:
    group = LayerGroup(SLIDING, (0,), window)
    peak = 0
    for start in range(0, num_tokens, chunk):
        end = min(start + chunk, num_tokens)
        peak = max(peak, -(-end // BLOCK_SIZE) - group.first_visible_block(start))
    bound = group.peak_blocks(num_tokens, chunk)
    assert peak <= bound <= -(-(window + chunk) // BLOCK_SIZE) + 1
