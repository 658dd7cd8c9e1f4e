"""Figures of an answer."""

from __future__ import annotations

from transom.cli.terminal.answer_clock import AnswerClock, AnswerFigures
from transom.request import Usage


def figures(*times: float, usage: Usage | None) -> AnswerFigures:
    ticks = iter(times)
    clock = AnswerClock(lambda: next(ticks))
    if len(times) > 2:
        clock.text_came()
        clock.text_came()
    return clock.figures(usage)


def test_speed_is_that_of_the_tokens_behind_the_first_one() -> None:
    found = figures(10.0, 10.5, 12.5, usage=Usage(100, 21, num_cached_tokens=64))
    assert (found.first_seconds, found.tokens_per_second, found.num_context_tokens) == (0.5, 10.0, 121)
    assert found.line(4096) == "21 tokens, 10.0 tokens/s, first after 0.50 s, context 121 of 4096 tokens"
    assert found.rows()["prompt"] == "100 tokens, 64 of them cached, 36 computed"
    assert "forgotten" not in found.rows()


def test_one_token_has_no_speed_and_what_was_forgotten_is_said() -> None:
    found = figures(0.0, 1.0, 1.0, usage=Usage(100, 1, num_evicted_tokens=36, is_lossy=True))
    assert found.line(4096) == "1 token, first after 1.00 s, context 101 of 4096 tokens, 36 forgotten"
    assert found.rows()["speed"] == "-"
    assert found.rows()["forgotten"] == "36 tokens"


def test_a_stopped_answer_has_no_counts() -> None:
    assert figures(0.0, 1.0, 2.0, usage=None).line(4096) == "stopped"
    assert figures(0.0, usage=Usage(9, 1)).line(4096) == "1 token, no text, context 10 of 4096 tokens"
    assert figures(0.0, usage=None).rows().keys() == {"last answer"}
