"""What fits, and the errors that say so."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cache.small_models import FULL, SLIDING
from transom.cache.budget import Budget
from transom.cache.layer_group import LayerGroup
from transom.errors import BudgetExceededError, ConfigError

MIB = 2**20
FOUR_FULL = (LayerGroup(FULL, (0, 1, 2, 3), None),)
MIXED = (LayerGroup(FULL, (0,), None), LayerGroup(SLIDING, (1, 2, 3), 100))


def test_the_arena_has_as_many_whole_slots_as_the_budget_holds() -> None:
    assert Budget(FOUR_FULL, slot_bytes=1000, budget_bytes=9999, chunk=64).num_slots == 9


def test_a_budget_below_one_block_is_refused_with_what_is_needed() -> None:
    with pytest.raises(ConfigError, match=r"kv_cache_ram_mb is 3 MiB.* 4 MiB \(4194304 bytes\).* at least 4$"):
        Budget(FOUR_FULL, slot_bytes=MIB, budget_bytes=3 * MIB, chunk=64)


def test_an_empty_budget_is_refused() -> None:
    with pytest.raises(ConfigError, match="kv_cache_ram_mb is 0 MiB"):
        Budget(FOUR_FULL, slot_bytes=MIB, budget_bytes=0, chunk=64)


def test_a_budget_of_exactly_one_block_is_accepted_and_holds_exactly_one() -> None:
    budget = Budget(FOUR_FULL, slot_bytes=MIB, budget_bytes=4 * MIB, chunk=64)
    budget.check_fits(64)
    with pytest.raises(BudgetExceededError):
        budget.check_fits(65)


def test_the_refusal_names_tokens_bytes_budget_and_what_would_fit() -> None:
    budget = Budget(FOUR_FULL, slot_bytes=MIB, budget_bytes=10 * MIB, chunk=64)
    with pytest.raises(BudgetExceededError) as caught:
        budget.check_fits(1000)
    assert str(caught.value) == (
        "The request needs room for 1000 tokens, 67108864 bytes (64 MiB) of keys and values, and the budget "
        "kv_cache_ram_mb is 10 MiB, which holds at most 128 tokens of one request; shorten the input or lower "
        "max_tokens."
    )
    assert caught.value.code == "kv_budget_exceeded"


def test_sliding_layers_are_charged_for_window_and_chunk_only() -> None:
    budget = Budget(MIXED, slot_bytes=1, budget_bytes=1000, chunk=64)
    assert budget.peak_slots(64) == 4
    assert budget.peak_slots(64 * 100) == 100 + 3 * 4


@given(num_tokens=st.integers(1, 5000), num_slots=st.integers(4, 200), chunk=st.integers(1, 600))
def test_the_longest_sequence_fits_and_one_token_more_does_not(num_tokens: int, num_slots: int, chunk: int) -> None:
    budget = Budget(MIXED, slot_bytes=10, budget_bytes=10 * num_slots, chunk=chunk)
    longest = budget.max_tokens(num_tokens)
    assert longest == num_tokens or budget.peak_slots(longest + 1) > num_slots
    assert longest == 0 or budget.peak_slots(longest) <= num_slots
