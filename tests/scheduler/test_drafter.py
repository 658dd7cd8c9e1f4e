"""One sequence's guesses, and what it learns from them."""

from __future__ import annotations

import numpy as np

from transom.scheduler.drafter import Draft, Drafter


def draft(drafter: Drafter, tokens: list[int], wanted: int = 4) -> Draft | None:
    return drafter.draft(np.array(tokens, np.int32), wanted)


SHORT = [*range(20), 99, 1, 2, 3]
LONG = [*SHORT, 98, *range(10)]


def test_long_matches_are_trusted_more_than_short_ones() -> None:
    drafter = Drafter(frozenset())
    short, long = draft(drafter, SHORT), draft(drafter, LONG)
    assert short is not None and long is not None
    assert (short.token_ids, long.token_ids) == ((4, 5, 6, 7), (10, 11, 12, 13))
    assert short.rate < long.rate


def test_a_draft_ends_before_a_token_that_ends_the_sequence() -> None:
    found = draft(Drafter(frozenset({6})), SHORT)
    assert found is not None
    assert found.token_ids == (4, 5)
    assert draft(Drafter(frozenset({4})), SHORT) is None


def test_the_rate_follows_what_was_right_each_kind_of_match_for_itself() -> None:
    drafter = Drafter(frozenset())
    rates = []
    for num_right in (0, 0, 0, 0, 4, 4, 4):
        found = draft(drafter, SHORT)
        assert found is not None
        rates.append(found.rate)
        drafter.note(4, num_right)
    assert rates[:5] == sorted(rates[:5], reverse=True)
    assert rates[4] < 0.2 < 0.6 < rates[6]
    long = draft(drafter, LONG)
    assert long is not None
    assert long.rate == 0.8


def test_a_long_copy_does_not_hide_for_long_that_it_has_ended() -> None:
    drafter = Drafter(frozenset())
    for _ in range(50):
        draft(drafter, LONG, 15)
        drafter.note(15, 15)
    for _ in range(10):
        draft(drafter, LONG, 15)
        drafter.note(15, 0)
    found = draft(drafter, LONG, 15)
    assert found is not None
    assert found.rate < 0.5


def test_a_sequence_without_right_guesses_looks_for_them_more_seldom_until_one_was_right() -> None:
    drafter = Drafter(frozenset())
    looks = [drafter.looks() for _ in range(16)]
    assert all(looks)
    for num_steps, turn in ((48, 4), (32, 8)):
        for _ in range(num_steps // turn):
            assert [drafter.looks() for _ in range(turn)] == [False] * (turn - 1) + [True]
            assert draft(drafter, SHORT) is not None
            drafter.note(1, 0)
    drafter.note(2, 1)
    assert all(drafter.looks() for _ in range(16))
    assert drafter.num_idle_steps == 16
