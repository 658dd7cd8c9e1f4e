"""What a command says when it fails."""

from __future__ import annotations

import pytest

from transom.cli.failure import say


def test_words_of_others_do_not_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say("the model 'x\x1b]0;title\x07\x9b31m\rtransom: all is well' does not exist")
    assert capsys.readouterr().err == "transom: the model 'x␛]0;title␇\ufffd31m␍transom: all is well' does not exist\n"


def test_every_line_is_said_under_the_programs_name(capsys: pytest.CaptureFixture[str]) -> None:
    say("one  line\n\nanother\tline")
    assert capsys.readouterr().err == "transom: one line\ntransom: another line\n"
