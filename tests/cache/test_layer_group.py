"""Layer kinds and what each of them has to keep."""

from __future__ import annotations

from tests.cache.small_models import FULL, SLIDING, make_model_config
from transom.cache.layer_group import LayerGroup, layer_groups
from transom.cache.strategy import FULL as EVERYTHING_KEPT
from transom.cache.strategy import AttendedSet, strategy_of
from transom.config.model_config import LayerKind
from transom.request import CacheOptions, CacheStrategy


def test_layers_are_grouped_by_kind_in_order_of_appearance() -> None:
    groups = layer_groups(make_model_config((SLIDING, SLIDING, FULL, SLIDING), sliding_window=100))
    assert groups == (LayerGroup(SLIDING, (0, 1, 3), 100), LayerGroup(FULL, (2,), None))


def test_layers_without_keys_and_values_belong_to_no_group() -> None:
    groups = layer_groups(make_model_config((LayerKind.SHORT_CONV, FULL, LayerKind.SHORT_CONV)))
    assert groups == (LayerGroup(FULL, (1,), None),)


def test_full_layers_see_what_the_strategy_lets_them_and_sliding_ones_their_window() -> None:
    strategy = strategy_of(
        CacheOptions(CacheStrategy.SLIDING_WINDOW, 200), capacity_blocks=9, chunk=64, has_cold_tier=False
    )
    assert LayerGroup(FULL, (0,), None).attended(strategy) == AttendedSet(window=200)
    assert LayerGroup(SLIDING, (0,), 100).attended(strategy) == AttendedSet(window=100)


def test_a_full_layer_keeps_everything_unless_the_strategy_forgets() -> None:
    assert LayerGroup(FULL, (0,), None).peak_blocks(100_000, 1, EVERYTHING_KEPT) == 1563
