"""What a model writes never commands the terminal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from transom.cli.terminal.harmless import harmless


@given(st.text())
def test_no_character_that_a_terminal_obeys_is_left(text: str) -> None:
    shown = harmless(text)
    assert not any(ord(char) < 32 or 0x7F <= ord(char) < 0xA0 for char in shown if char not in "\n\t")


@given(st.text(st.characters(exclude_categories=["Cc"])))
def test_all_other_text_stays_as_it_is(text: str) -> None:
    assert harmless(text) == text


def test_escape_sequences_show_as_pictures() -> None:
    assert harmless("\x1b]0;title\x07\x9b31m\x7f") == "␛]0;title␇\ufffd31m␡"
    assert harmless("a\r\nb\rc\td") == "a\nb␍c\td"
