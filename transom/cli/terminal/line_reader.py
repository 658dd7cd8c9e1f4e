"""Who reads what is typed: the protocol, and the reader for terminals that cannot move their cursor."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, auto
from typing import Protocol

from transom.cli.terminal.typed import is_complete

PROMPT, CONTINUATION = "> ", ". "


class NoLine(Enum):
    """Nothing was sent."""

    END = auto()
    """Ctrl-D, or the end of input."""
    INTERRUPT = auto()
    """Ctrl-C where nothing had been typed."""


class LineReader(Protocol):
    """Reads one message after the other."""

    async def read(self) -> str | NoLine:
        """The next one, as it was typed: line ends and marks of several lines are in it."""
        ...


class PlainReader:
    """Reads by `input`: the terminal itself edits the line. The event loop stands still while somebody types."""

    async def read(self) -> str | NoLine:
        lines: list[str] = []
        try:
            with _interruptible():
                lines.append(_line(PROMPT))
                while not is_complete("\n".join(lines)):
                    lines.append(_line(CONTINUATION))
        except EOFError:
            print(file=sys.stderr)
            return "\n".join(lines) if lines else NoLine.END
        except KeyboardInterrupt:
            print(file=sys.stderr)
            return NoLine.INTERRUPT
        return "\n".join(lines)


def _line(prompt: str) -> str:
    """The prompt belongs to the conversation, not to the answers, so it goes where they do not."""
    if sys.stdout.isatty():
        return input(prompt)
    print(prompt, end="", file=sys.stderr, flush=True)
    return input()


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C ends `input`, whatever the event loop would make of it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
