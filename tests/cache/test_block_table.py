"""One sequence's blocks, as blocks and as slot numbers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from transom.cache.block_pool import BlockPool
from transom.cache.block_table import NO_SLOT, BlockTable, clear
from transom.cache.layer_group import LayerGroup
from transom.cache.no_cold_tier import NoColdTier
from transom.config.model_config import LayerKind

FULL = LayerGroup(LayerKind.FULL_ATTENTION, (0, 1), None)
SLIDING = LayerGroup(LayerKind.SLIDING_ATTENTION, (0, 1), 100)


def test_a_row_of_the_table_names_a_layers_slots_in_order_of_position() -> None:
    table, pool = BlockTable(FULL), BlockPool(20, NoColdTier())
    table.extend(pool, 129)
    assert table.slots(129).tolist() == [[0, 2, 4], [1, 3, 5]]
    assert table.slots(128).tolist() == [[0, 2], [1, 3]]


def test_a_row_of_the_table_is_contiguous_whatever_its_length() -> None:
    table, pool = BlockTable(FULL), BlockPool(200, NoColdTier())
    table.extend(pool, 64 * 77)
    assert all(row.flags.c_contiguous for row in table.slots(64 * 70))


def test_only_missing_blocks_are_counted_and_allocated() -> None:
    table, pool = BlockTable(FULL), BlockPool(20, NoColdTier())
    table.extend(pool, 64)
    assert (table.num_missing_slots(64), table.num_missing_slots(65), table.num_missing_slots(193)) == (0, 2, 6)
    table.extend(pool, 64)
    assert pool.num_used_slots == 2


def test_a_sliding_table_drops_what_no_later_token_sees() -> None:
    table, pool = BlockTable(SLIDING), BlockPool(20, NoColdTier())
    table.extend(pool, 256)
    table.drop_invisible(pool, 162)  # position 162 sees 63 .. 162
    assert table.num_kept_blocks == 4
    table.drop_invisible(pool, 163)  # position 163 sees 64 .. 163
    assert table.num_kept_blocks == 3
    assert table.slots(256).tolist() == [[NO_SLOT, 2, 4, 6], [NO_SLOT, 3, 5, 7]]
    table.check_integrity()


def test_blocks_become_sealed_when_their_last_position_is_computed() -> None:
    table, pool = BlockTable(FULL), BlockPool(20, NoColdTier())
    table.extend(pool, 200)
    table.seal(0, 127)
    assert [block.sealed for block in table.kept_blocks()] == [True, False, False, False]
    table.seal(127, 192)
    assert [block.sealed for block in table.kept_blocks()] == [True, True, True, False]


def test_after_clearing_the_head_of_the_sequence_is_overwritten_last() -> None:
    table, pool = BlockTable(FULL), BlockPool(6, NoColdTier())
    table.extend(pool, 192)
    clear([table], pool)
    assert pool.num_used_slots == 0
    other = BlockTable(FULL)
    other.extend(pool, 64)
    assert other.slots(64).tolist() == [[0], [1]]
    table.check_integrity()


@given(steps=st.lists(st.integers(1, 200), max_size=12))
def test_a_sliding_table_always_holds_what_the_next_token_sees(steps: list[int]) -> None:
    table, pool, num_tokens = BlockTable(SLIDING), BlockPool(400, NoColdTier()), 0
    for step in steps:
        table.extend(pool, num_tokens + step)
        visible = range(max(0, num_tokens - 99), num_tokens + step)
        slots = table.slots(num_tokens + step)
        assert all((slots[:, position // 64] != NO_SLOT).all() for position in visible)
        num_tokens += step
        table.seal(num_tokens - step, num_tokens)
        table.drop_invisible(pool, num_tokens)
        table.check_integrity()
        pool.check_integrity(list(table.kept_blocks()))
    clear([table], pool)
    assert pool.num_used_slots == 0
