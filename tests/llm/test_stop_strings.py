"""Stop strings in streams of text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transom.llm import StopStringScanner

few_letters = st.text("ab", max_size=30)
stops = st.lists(st.text("ab", min_size=1, max_size=5), max_size=4)


def _scan(pieces: list[str], stop: list[str], *, include: bool = False) -> tuple[str, str | None]:
    scanner = StopStringScanner(stop, include_stop=include)
    text = ""
    for piece in pieces:
        text += scanner.feed(piece)
        if scanner.matched is not None:
            return text, scanner.matched
    return text + scanner.flush(), None


def _expected(text: str, stop: list[str], *, include: bool) -> tuple[str, str | None]:
    """Letter by letter: the first place where a stop string is complete."""
    for end in range(1, len(text) + 1):
        complete = [candidate for candidate in stop if text[:end].endswith(candidate)]
        if complete:
            longest = max(complete, key=len)
            return (text[:end] if include else text[: end - len(longest)]), longest
    return text, None


@given(text=few_letters, stop=stops, include=st.booleans(), data=st.data())
def test_the_result_does_not_depend_on_where_the_text_is_cut(
    text: str, stop: list[str], include: bool, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert _scan(pieces, stop, include=include) == _expected(text, stop, include=include)


@given(text=few_letters, stop=stops)
def test_nothing_is_held_back_that_cannot_become_a_stop_string(text: str, stop: list[str]) -> None:
    scanner = StopStringScanner(stop)
    certain = scanner.feed(text)
    if scanner.matched is None:
        held = text[len(certain) :]
        assert not held or any(candidate.startswith(held) for candidate in stop)


def test_text_without_stop_strings_passes_at_once() -> None:
    scanner = StopStringScanner(())
    assert scanner.feed("anything") == "anything"
    assert scanner.flush() == ""


def test_a_stop_string_over_several_pieces_is_found() -> None:
    assert _scan(["Hello\n", "\nUs", "er: x"], ["\n\nUser:"]) == ("Hello", "\n\nUser:")
    assert _scan(["Hello\n", "\nUs", "er: x"], ["\n\nUser:"], include=True) == ("Hello\n\nUser:", "\n\nUser:")


def test_what_might_have_become_a_stop_string_comes_at_the_end() -> None:
    assert _scan(["ab", "c<en"], ["<end>"]) == ("abc<en", None)


def test_a_stop_string_equal_to_the_whole_text_leaves_nothing() -> None:
    assert _scan(["a", "b"], ["ab"]) == ("", "ab")


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        StopStringScanner(["a", ""])
