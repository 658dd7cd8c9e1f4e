"""Reasoning told from the answer, wherever the text is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.llm.reading import Read, read
from transom.llm.reasoning import ReasoningMarks, ReasoningSplitter, find_reasoning

ANSWERS = [
    (False, "<think>\nhm, 2 < 3\n</think>\n\nFour.", Read("Four.", "hm, 2 < 3")),
    (False, "\n <think>hm</think> Four.\n", Read("Four.\n", "hm")),
    (False, "Four. <think>no</think>", Read("Four. <think>no</think>")),
    (False, "<thinking> is hard", Read("<thinking> is hard")),
    (False, "<think>\n\n</think>\n\nFour.", Read("Four.")),
    (False, "<think>for ever", Read("", "for ever")),
    (False, "<thi", Read("<thi")),
    (False, "", Read()),
    (True, "\nhm\n\nhm</think>Four.", Read("Four.", "hm\n\nhm")),
    (True, "hm</thin", Read("", "hm</thin")),
    (True, "</think>Four.", Read("Four.")),
]


@pytest.mark.parametrize(("is_open", "text", "answer"), ANSWERS, ids=range(len(ANSWERS)))
def test_reasoning_and_answer_are_told_apart_wherever_the_text_is_cut(is_open: bool, text: str, answer: Read) -> None:
    assert read(ReasoningSplitter(ReasoningMarks(), is_open=is_open), text) == answer
    assert read(ReasoningSplitter(ReasoningMarks(), is_open=is_open), text, range(len(text))) == answer


@given(
    st.booleans(),
    st.lists(st.sampled_from(["<think>", "</think>", "<", "think", ">", " ", "\n", "a", "</"]), max_size=20),
    st.lists(st.integers(0, 60), max_size=6),
)
def test_any_text_is_read_the_same_wherever_it_is_cut(is_open: bool, pieces: list[str], cuts: list[int]) -> None:
    text = "".join(pieces)
    whole = read(ReasoningSplitter(ReasoningMarks(), is_open=is_open), text)
    assert (
        read(ReasoningSplitter(ReasoningMarks(), is_open=is_open), text, [min(cut, len(text)) for cut in cuts]) == whole
    )


@pytest.mark.parametrize(
    ("is_open", "text", "end"),
    [
        (False, "\n<think>hm</think>\n Four.", len("\n<think>hm</think>")),
        (True, "hm</think>Four.", len("hm</think>")),
        (False, "Four. <think>no</think>", 0),
        (False, "<thi", 0),
        (False, "<think>hm</thi", None),
        (True, "", None),
    ],
)
def test_the_reasoning_ends_behind_its_closing_mark_wherever_the_text_is_cut(
    is_open: bool, text: str, end: int | None
) -> None:
    whole, in_pieces = (ReasoningSplitter(ReasoningMarks(), is_open=is_open) for _ in range(2))
    whole.feed(text)
    for character in text:
        in_pieces.feed(character)
    assert whole.end == in_pieces.end == end


def test_a_template_that_knows_the_marks_tells_of_reasoning() -> None:
    assert find_reasoning("{{ message.content.split('</think>') }}") == ReasoningMarks()
    assert find_reasoning("{{ message.content }}") is None
