"""Each processor by hand, and their order."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from transom.request import SamplingParams
from transom.sampling.processors import SampledSoFar, process

LOGITS = np.array([1.0, -2.0, 3.0, 0.5, -0.5], np.float32)


def after(prompt: list[int], output: list[int], ends: tuple[int, ...] = ()) -> SampledSoFar:
    return SampledSoFar(np.array(prompt + output, np.int32), len(prompt), ends)


def processed(so_far: SampledSoFar, **params: object) -> list[float]:
    row: NDArray[np.float32] = LOGITS.copy()
    changed = process(row, SamplingParams(max_tokens=9, **params), so_far)  # type: ignore[arg-type]
    assert (row == LOGITS).all(), "the argument is never changed"
    return [float(logit) for logit in changed]


def test_neutral_parameters_copy_nothing() -> None:
    assert process(LOGITS, SamplingParams(max_tokens=1), after([1], [2])) is LOGITS


def test_repetition_penalty_covers_prompt_and_output_once_each() -> None:
    assert processed(after([0, 0, 1], [2, 0]), repetition_penalty=2.0) == [0.5, -4.0, 1.5, 0.5, -0.5]


def test_presence_counts_once_and_only_the_output() -> None:
    assert processed(after([3, 4], [2, 2, 0]), presence_penalty=0.5) == [0.5, -2.0, 2.5, 0.5, -0.5]


def test_frequency_counts_every_occurrence_in_the_output() -> None:
    assert processed(after([3], [2, 2, 0]), frequency_penalty=0.5) == [0.5, -2.0, 2.0, 0.5, -0.5]


def test_negative_penalties_encourage() -> None:
    assert processed(after([], [1]), presence_penalty=-2.0)[1] == 0.0


def test_logit_bias_is_added() -> None:
    assert processed(after([], []), logit_bias={0: 10.0, 4: -100.0}) == [11.0, -2.0, 3.0, 0.5, -100.5]


def test_only_allowed_tokens_keep_their_logits() -> None:
    inf = float("inf")
    assert processed(after([], []), allowed_token_ids=(1, 3)) == [-inf, -2.0, -inf, 0.5, -inf]


def test_the_end_is_banned_before_min_tokens_and_no_bias_lifts_it() -> None:
    row = processed(after([0], [1]), min_tokens=2, logit_bias={2: 100.0}) + processed(
        after([0], [1], ends=(2,)), min_tokens=2, logit_bias={2: 100.0}
    )
    assert row[2] == 103.0
    assert row[5 + 2] == -np.inf


def test_the_end_is_free_once_min_tokens_are_there() -> None:
    assert processed(after([0], [1, 1], ends=(2,)), min_tokens=2) == LOGITS.tolist()


def test_the_ban_yields_when_nothing_else_is_allowed() -> None:
    row = processed(after([0], [], ends=(2, 4)), min_tokens=3, allowed_token_ids=(2, 4))
    assert row[2] == 3.0
    assert row[4] == -0.5


@pytest.mark.parametrize("prompt", [[], [0], [4, 4, 4]])
def test_penalties_of_an_empty_output_change_nothing(prompt: list[int]) -> None:
    assert processed(after(prompt, []), presence_penalty=1.0, frequency_penalty=1.0) == LOGITS.tolist()


@pytest.mark.parametrize("penalty", [5e-324, 1e-45, 1e-38, 1e-30])
def test_a_penalty_next_to_nothing_leaves_usable_logits_and_bans_in_place(penalty: float) -> None:
    row = processed(after([0, 1, 2], []), allowed_token_ids=(0, 1, 3), repetition_penalty=penalty)
    assert np.isfinite(max(row)) and not np.isnan(row).any()
    assert row.index(max(row)) == 0
    assert (row[2], row[3]) == (-np.inf, 0.5)
