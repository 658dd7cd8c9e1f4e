"""`transom run` in terminals that can do little, and where one end is no terminal at all."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.pseudo_terminal import ROOT, PseudoTerminal


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[PseudoTerminal]:
    """One that cannot move its cursor; answers may be long."""
    opened = PseudoTerminal(
        "run", "tolstoy", "--temp", "0", "-t", "1", "-n", "0", "-c", "2000", home=tmp_path, term="dumb"
    )
    yield opened
    opened.close()


def test_a_dumb_terminal_has_lines_answers_and_interrupts_and_no_escape_sequences(
    terminal: PseudoTerminal, tmp_path: Path
) -> None:
    terminal.wait_for("> ")
    assert "tolstoy (completion), context window 2000 tokens, attention window full" in terminal.text
    assert "every line is completed on its own" in " ".join(terminal.text.split())
    terminal.type("\n")
    terminal.wait_for("> ", 2)
    terminal.type("/set max_tokens 6\n")
    terminal.wait_for("max_tokens  6")
    for number in (1, 2):  # a text stands alone: the same line, the same continuation
        terminal.type("Prince Andrew\n")
        terminal.wait_for("6 tokens, ", number)
    first, second = [text.splitlines()[-1].removeprefix("> ") for text in terminal.text.split("6 tokens, ")[:2]]
    assert first == second
    assert len(first.split()) > 2
    terminal.wait_for("> ", 5)  # what is typed earlier is shown before the mark
    terminal.type("one two \\\nthree\n")
    terminal.wait_for("6 tokens, ", 3)
    assert "\n. " in terminal.text
    terminal.type("/set max_tokens 0\n")
    terminal.wait_for("max_tokens  0")
    terminal.wait_for("> ", 7)
    terminal.forget()
    terminal.type("Prince Andrew\n")
    terminal.wait_for("the", 5)
    os.killpg(terminal.process.pid, signal.SIGINT)
    terminal.wait_for("what was said so far stays")
    terminal.wait_for("\n> ")
    time.sleep(
        0.3
    )  # `input` shows its mark a moment before it reads, and hears a signal of that moment with the next line
    terminal.type("\x03")
    terminal.wait_for("Ctrl-C stops an answer; Ctrl-D or /quit leaves.")
    terminal.type("/set max_tokens 1999\none two three\n")
    terminal.wait_for("1999 of an answer do not fit into the context window, 2000 tokens.")
    terminal.wait_for("A shorter text fits.")
    assert "\x1b" not in terminal.shown
    terminal.type("/bye\n")
    assert terminal.end() == 0
    assert not (tmp_path / ".local").exists()


def test_with_answers_in_a_file_the_conversation_is_on_standard_error(tmp_path: Path) -> None:
    own_end, other_end = pty.openpty()
    try:
        os.write(own_end, b"Prince Andrew\n\x04")
        result = subprocess.run(
            [sys.executable, "-m", "transom", "run", "tolstoy", "--temp", "0", "-t", "1", "-n", "6"],
            stdin=other_end,
            capture_output=True,
            cwd=ROOT,
            timeout=60,
        )
    finally:
        os.close(own_end)
        os.close(other_end)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == 1
    assert b"> " not in result.stdout
    assert b"> " in result.stderr
    assert b"6 tokens, " in result.stderr


def test_an_interrupt_while_a_model_is_loaded_ends_the_program_without_a_traceback(tmp_path: Path) -> None:
    terminal = PseudoTerminal("run", "tolstoy", home=tmp_path)
    try:
        while not any(b"transom.engine.worker" in line for line in _children(terminal.process.pid)):
            assert terminal.process.poll() is None
        terminal.type("\x03")
        assert terminal.end() == 130
        assert "Traceback" not in terminal.text
    finally:
        terminal.close()


def _children(process_id: int) -> list[bytes]:
    """Command lines of a process's children."""
    lines = []
    for child in Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split():
        try:
            lines.append(Path(f"/proc/{child}/cmdline").read_bytes())
        except OSError:
            continue
    return lines
