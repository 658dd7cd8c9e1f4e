"""What a command says when it fails."""

from __future__ import annotations

import errno
import io
import sys

import pytest
import typer

from transom.cli.failure import EXIT_BAD_SETTINGS, say, told_in_one_line
from transom.errors import ConfigError


def test_words_of_others_do_not_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say("the model 'x\x1b]0;title\x07\x9b31m\rtransom: all is well' does not exist")
    assert capsys.readouterr().err == "transom: the model 'x␛]0;title␇\ufffd31m␍transom: all is well' does not exist\n"


def test_every_line_is_said_under_the_programs_name(capsys: pytest.CaptureFixture[str]) -> None:
    say("one  line\n\nanother\tline")
    assert capsys.readouterr().err == "transom: one line\ntransom: another line\n"


class FullDisk(io.StringIO):
    """Takes nothing."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", text)


def test_a_full_disk_behind_standard_error_does_not_change_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", FullDisk())
    with pytest.raises(typer.Exit) as ended, told_in_one_line():
        raise ConfigError("no such model")
    assert ended.value.exit_code == EXIT_BAD_SETTINGS
