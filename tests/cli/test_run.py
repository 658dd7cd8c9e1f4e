"""`transom run` in a terminal of its own: it asks, answers, and ends on the end of input or Ctrl-C."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


class Terminal:
    """A process behind a pseudo-terminal."""

    def __init__(self, *arguments: str) -> None:
        self._own_end, other_end = pty.openpty()
        command = [sys.executable, "-m", "transom", "run", "tolstoy", "--temp", "0", "-t", "1", *arguments]
        self.process = subprocess.Popen(
            command,
            stdin=other_end,
            stdout=other_end,
            stderr=other_end,
            cwd=ROOT,
            env={**os.environ, "TERM": "dumb"},
            start_new_session=True,
        )
        os.close(other_end)
        self.shown = ""

    def wait_for(self, text: str, count: int = 1) -> None:
        deadline = time.monotonic() + 30
        while self.shown.count(text) < count:
            ready, _, _ = select.select([self._own_end], [], [], 0.1)
            if ready:
                self.shown += os.read(self._own_end, 4096).decode()
            assert time.monotonic() < deadline, self.shown

    def type(self, text: str) -> None:
        os.write(self._own_end, text.encode())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._own_end)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    opened = Terminal("-n", "6")
    yield opened
    opened.close()


def test_lines_are_answered_until_the_end_of_input(terminal: Terminal) -> None:
    terminal.wait_for("> ")
    terminal.type("\nPrince Andrew\n")
    terminal.wait_for("> ", 3)
    answer = terminal.shown.splitlines()[-2].removeprefix("> ")
    assert len(answer.split()) > 3
    terminal.type("Prince Andrew\n")
    terminal.wait_for("> ", 4)
    assert terminal.shown.count(answer) == 2
    terminal.type("\x04")
    assert terminal.process.wait(timeout=10) == 0


def test_what_cannot_be_answered_is_said_and_the_next_line_is_asked_for() -> None:
    terminal = Terminal("--ctx-size", "16")
    try:
        terminal.wait_for("> ")
        terminal.type("one two three four five six seven eight nine ten eleven twelve thirteen\n")
        terminal.wait_for("> ", 2)
        assert "maximum context length is 16 tokens" in terminal.shown
        assert terminal.process.poll() is None
    finally:
        terminal.close()


def test_an_interrupt_ends_the_program_and_its_worker_without_a_traceback(terminal: Terminal) -> None:
    terminal.wait_for("> ")
    os.killpg(terminal.process.pid, signal.SIGINT)
    assert terminal.process.wait(timeout=10) == 130
    assert "Traceback" not in terminal.shown


def test_the_first_lines_say_who_answers_and_how_to_stop_it_and_bye_leaves(terminal: Terminal) -> None:
    terminal.wait_for("> ")
    assert "tolstoy (completion), context window 8192 tokens, attention window full" in terminal.shown
    assert "Ctrl-C stops an answer, Ctrl-D leaves, /bye too" in terminal.shown
    assert "every line is completed on its own" in terminal.shown
    terminal.type("/help\n")
    terminal.wait_for("/bye, /exit")
    terminal.type("/bye\n")
    assert terminal.process.wait(timeout=10) == 0


def test_an_interrupt_during_an_answer_stops_the_answer_only() -> None:
    terminal = Terminal("-n", "0")
    try:
        terminal.wait_for("> ")
        terminal.type("Prince Andrew\n")
        terminal.wait_for("the", 5)
        os.killpg(terminal.process.pid, signal.SIGINT)
        terminal.wait_for("> ", 2)
        terminal.type("/exit\n")
        assert terminal.process.wait(timeout=10) == 0
        assert "died" not in terminal.shown
    finally:
        terminal.close()
