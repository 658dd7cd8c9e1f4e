"""What is known of the price of rows."""

from __future__ import annotations

import pytest

from transom.scheduler.step_costs import StepCosts


def measured(*steps: tuple[int, float], num_sequences: int = 1) -> StepCosts:
    costs = StepCosts()
    for num_rows, seconds in steps:
        costs.note(num_sequences, num_rows, seconds)
    return costs


def test_a_step_without_drafts_comes_first_and_again_after_a_while_but_ever_more_seldom() -> None:
    costs = StepCosts()
    runs = []
    for _ in range(7):
        assert costs.wants_plain_step(1)
        costs.note(1, 1, 1.0)
        num_drafted = 0
        while not costs.wants_plain_step(1):
            costs.note(1, 3, 1.0)
            num_drafted += 1
        runs.append(num_drafted)
    assert runs == [16, 32, 64, 128, 128, 128, 128]


def test_rows_cost_what_was_measured_beside_a_plain_step() -> None:
    costs = measured((1, 2.0), (2, 2.2), (4, 3.0), (6, 6.0))
    assert costs.ratios(1, 6) == pytest.approx([1.0, 1.1, 1.3, 1.5, 2.25, 3.0, 3.1])


def test_each_number_of_sequences_has_prices_of_its_own() -> None:
    costs = measured((3, 3.0), (4, 6.0), num_sequences=3)
    assert costs.ratios(3, 1) == [1.0, 2.0]
    assert costs.ratios(1, 1) == [1.0, 1.1]
    assert costs.wants_plain_step(1)
    assert not costs.wants_plain_step(3)


def test_one_disturbed_step_decides_nothing_once_there_are_others() -> None:
    costs = measured((1, 1.0), (2, 9.0))
    assert costs.ratios(1, 1)[1] == 9.0
    costs.note(1, 2, 1.2)
    costs.note(1, 2, 1.3)
    assert costs.ratios(1, 1)[1] == 1.3


def test_fewer_rows_never_cost_more() -> None:
    assert measured((1, 1.0), (3, 5.0), (5, 1.4)).ratios(1, 4) == pytest.approx([1.0, 1.2, 1.4, 1.4, 1.4])
    assert measured((1, 1.0), (2, 0.5)).ratios(1, 1) == [1.0, 1.0]


def test_what_was_measured_long_ago_is_forgotten() -> None:
    costs = measured((1, 1.0), (2, 9.0), *[(1, 1.0)] * 257)
    assert costs.ratios(1, 1) == [1.0, 1.1]
    costs.note(1, 2, 1.5)
    assert costs.ratios(1, 1) == [1.0, 1.5]


def test_a_clock_that_stands_still_is_no_error() -> None:
    assert measured((1, 0.0), (2, 0.0)).ratios(1, 1) == [1.0, 1.0]
