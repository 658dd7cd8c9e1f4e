"""Messages of several lines."""

from __future__ import annotations

import pytest

from transom.cli.terminal.typed import is_complete, meaning


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("hello", "hello"),
        ("one\ntwo", "one\ntwo"),
        ("one\\\ntwo", "one\ntwo"),
        ('"""one\ntwo"""', "one\ntwo"),
        ('"""\none\n\ntwo\n"""\n', "one\n\ntwo"),
        ('""""""', ""),
        ('say """', 'say """'),
        ("", ""),
    ],
)
def test_a_complete_message_means_its_text(typed: str, message: str) -> None:
    assert is_complete(typed)
    assert meaning(typed) == message


@pytest.mark.parametrize("typed", ["one\\", '"""', '"""one', '"""one\ntwo', '""" """ "', "a\nb\\"])
def test_what_goes_on_is_not_complete(typed: str) -> None:
    assert not is_complete(typed)
