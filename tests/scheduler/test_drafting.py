"""How many guesses are worth their rows, for one sequence and among several."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transom.config.engine_config import MAX_DRAFTED_ROWS
from transom.scheduler.drafter import Draft
from transom.scheduler.drafting import Drafting, StepShape

ALONE = StepShape(1, 1)


def drafting(*ratios: float, num_sequences: int = 1) -> Drafting:
    """One that has measured what 1, 2, 3 ... guesses cost beside a plain step."""
    planner = Drafting(15)
    planner.note_step(num_sequences, num_sequences, 1.0)
    for index, ratio in enumerate(ratios):
        planner.note_step(num_sequences, num_sequences + 1 + index, ratio)
    return planner


def draft(rate: float, length: int = 8) -> Draft:
    return Draft(tuple(range(length)), rate)


@pytest.mark.parametrize(
    ("rate", "ratios", "expected"),
    [
        (0.95, [1.0] * 8, 8),  # rows for nothing: as many as there are
        (0.95, [1.0, 1.1, 1.2, 1.3, 1.4, 3.0, 3.1, 3.2], 5),  # up to where they get dear
        (0.5, [1.0, 1.2, 1.6, 2.0, 2.4, 2.8, 3.2, 3.6], 1),
        (0.5, [2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0], 0),  # 2 tokens for the time of 2
        (0.01, [1.1] * 8, 0),
    ],
)
def test_a_draft_is_as_long_as_it_pays(rate: float, ratios: list[float], expected: int) -> None:
    assert drafting(*ratios).share(ALONE, [draft(rate)], [0], 100) == [expected]


def test_never_more_rows_than_the_step_has_left() -> None:
    assert drafting(*[1.0] * 8).share(ALONE, [draft(0.9)], [0], 3) == [3]
    assert drafting(*[1.0] * 8).share(ALONE, [draft(0.9)], [0], 0) == [0]


def test_where_rows_cost_something_a_sequence_without_guesses_does_not_pay_for_another() -> None:
    ratios = [1.01, 1.2, 1.3, 1.4]
    both = drafting(*ratios, num_sequences=2).share(StepShape(2, 2), [draft(0.9), draft(0.9)], [0, 0], 100)
    one = drafting(*ratios, num_sequences=2).share(StepShape(2, 2), [draft(0.9)], [0], 100)
    assert sum(both) > 2
    assert one == [1]


def test_the_likelier_guesses_get_the_rows() -> None:
    lengths = drafting(*[1.0] * 6, num_sequences=2).share(StepShape(2, 2), [draft(0.6), draft(0.9)], [0, 0], 6)
    assert lengths == [1, 5]


def test_beside_a_long_prompt_rows_cost_their_share_of_it() -> None:
    assert Drafting(15).share(StepShape(1, 512), [draft(0.9)], [0], 100) == [8]
    assert Drafting(15).share(StepShape(1, 33), [draft(0.9)], [0], 100) == [0]


def test_guesses_that_never_pay_are_tried_now_and_then_at_a_price_of_one_percent() -> None:
    planner = drafting(1.5, 2.0, 2.5, 3.0)
    tried = [planner.share(ALONE, [draft(0.05)], [0], 100)[0] for _ in range(2000)]
    assert set(tried) == {0, 2}
    assert 0 < tried.count(2) * (2.0 - 1.0) <= 0.0101 * 2000


def test_tries_go_round() -> None:
    planner, idle = drafting(1.0, 1.1, num_sequences=3), [0, 0, 0]
    tried = set()
    for _ in range(60):
        lengths = planner.share(StepShape(3, 3), [draft(0.01)] * 3, idle, 100)
        tried |= {index for index, length in enumerate(lengths) if length}
        idle = [0 if length else steps + 1 for steps, length in zip(idle, lengths, strict=True)]
    assert tried == {0, 1, 2}


def test_nothing_is_looked_for_without_a_price_or_in_a_large_batch() -> None:
    assert not Drafting(15).wants_drafts(ALONE)
    assert Drafting(15).wants_drafts(StepShape(1, 200))
    assert drafting().wants_drafts(ALONE)
    assert not Drafting(0).wants_drafts(StepShape(1, 200))
    assert not drafting(num_sequences=40).wants_drafts(StepShape(40, 40))
    assert not drafting().wants_drafts(StepShape(0, 100))


@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(1, 15)), min_size=1, max_size=12),
    st.lists(st.floats(0.5, 4.0), max_size=20),
    st.integers(0, 5),
    st.integers(0, 40),
)
def test_lengths_are_within_what_there_is(
    drafts: list[tuple[float, int]], ratios: list[float], num_others: int, num_rows: int
) -> None:
    num_sequences = len(drafts) + num_others
    planner = drafting(*ratios, num_sequences=num_sequences)
    found = [draft(rate, length) for rate, length in drafts]
    lengths = planner.share(StepShape(num_sequences, num_sequences), found, [0] * len(found), num_rows)
    assert all(0 <= length <= len(each.token_ids) for length, each in zip(lengths, found, strict=True))
    assert sum(lengths) <= min(num_rows, MAX_DRAFTED_ROWS)
