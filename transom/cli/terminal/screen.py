"""`Screen`: what is shown. Owns the terminal's modes, colours and bars; knows no model.

Answers go to standard output. So does everything else where that is a terminal; where it is not, notes go to standard
error, so that a file has the answers alone. NO_COLOR and dumb terminals get plain text.
"""

from __future__ import annotations

import os
import sys
import termios
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from transom.cli.terminal.harmless import harmless

_BAR_DELAY_SECONDS = 0.4
_LEAST_COLUMN = 30
_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


class Screen:
    """One terminal, or what stands in for it."""

    def __init__(self) -> None:
        self.is_terminal = sys.stdout.isatty()
        is_plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM", "dumb") in ("dumb", "unknown", "")
        self._notes = Console(
            stderr=not self.is_terminal,
            markup=False,
            highlight=False,
            emoji=False,
            color_system=None if is_plain else "auto",
        )
        self._is_styled = self._notes.color_system is not None and self.is_terminal
        self.can_edit = self.is_terminal and not self._notes.is_dumb_terminal
        """A line can be edited in it: the cursor moves."""
        self._can_move = self._notes.is_terminal and not self._notes.is_dumb_terminal
        self._is_dim = False
        self._column_is_zero = True
        self._has_written = False

    def write(self, text: str, *, dim: bool = False) -> None:
        """A piece of an answer, at once; `dim`: of what the model wrote for itself."""
        if not text:
            return
        shown = harmless(text) if self.is_terminal else text
        self._set_dim(dim)
        sys.stdout.write(shown)
        sys.stdout.flush()
        self._column_is_zero, self._has_written = shown.endswith("\n"), True

    def end_answer(self, *, always: bool = False) -> None:
        """What follows begins on a line of its own; `always`: also an answer that ends with a line end gets one."""
        self._set_dim(False)
        if not self._column_is_zero or (always and self._has_written):
            sys.stdout.write("\n")
        self._column_is_zero, self._has_written = True, False
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """Something beside the conversation, dim."""
        self._notes.print(Text(harmless(text), style="dim"))

    def say(self, text: str) -> None:
        """Something that is meant to be read now."""
        self._notes.print(Text(harmless(text)))

    def complain(self, text: str) -> None:
        """Something went wrong."""
        self._notes.print(Text(harmless(text), style="red"))

    def pairs(self, rows: Mapping[str, str]) -> None:
        """Names and what is to be said of them, in two columns or, where these would be narrow, one below the other."""
        if self._notes.width < max(map(len, rows)) + _LEAST_COLUMN:
            for name, value in rows.items():
                self.say(name)
                self._notes.print(Padding(Text(harmless(value)), (0, 0, 0, 2)))
            return
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in rows.items():
            table.add_row(Text(harmless(name)), Text(harmless(value)))
        self._notes.print(table)

    @contextmanager
    def bar(self, label: str) -> Iterator[LazyBar]:
        """A bar that appears only where something takes its time, and leaves nothing behind."""
        bar = LazyBar(self._notes, label, is_wanted=self._can_move)
        try:
            yield bar
        finally:
            bar.stop()

    @contextmanager
    def listening_for_interrupts_only(self) -> Iterator[None]:
        """What is typed meanwhile does not show, and is there for the next line that is read."""
        try:
            descriptor = sys.stdin.fileno()
            before = termios.tcgetattr(descriptor)
        except (OSError, ValueError, termios.error):
            yield
            return
        quiet = [*before]
        quiet[3] &= ~termios.ECHO
        termios.tcsetattr(descriptor, termios.TCSANOW, quiet)
        try:
            yield
        finally:
            with suppress(termios.error):
                termios.tcsetattr(descriptor, termios.TCSANOW, before)

    def _set_dim(self, dim: bool) -> None:
        if self._is_styled and dim != self._is_dim:
            sys.stdout.write(_DIM if dim else _PLAIN)
        self._is_dim = dim


class LazyBar:
    """Shown from the first update on that comes late enough."""

    def __init__(self, console: Console, label: str, *, is_wanted: bool) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[amount]}", markup=False),
            console=console,
            transient=True,
            disable=not is_wanted,
        )
        self._task = self._progress.add_task(label, total=None, amount="")
        self._due = time.monotonic() + _BAR_DELAY_SECONDS
        self._is_shown = False

    def update(self, done: int, total: int, amount: str) -> None:
        """`amount` says in words how much is done."""
        if time.monotonic() < self._due:
            return
        if not self._is_shown:
            self._is_shown = True
            self._progress.start()
        self._progress.update(self._task, completed=done, total=total, amount=amount)

    def stop(self) -> None:
        """Gone, for good."""
        self._due = float("inf")
        if self._is_shown:
            self._is_shown = False
            self._progress.stop()
