"""How a command fails: clear lines on standard error and an exit code, never a traceback for what is not a bug."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import typer

from transom.cli.terminal.harmless import harmless
from transom.errors import ConfigError, TransomError

EXIT_FAILED = 1
EXIT_BAD_SETTINGS = 2
EXIT_INTERRUPTED = 130
EXIT_NOBODY_READS = 141


@contextmanager
def told_in_one_line(reworded: Callable[[str], str] = str) -> Iterator[None]:
    """Turns expected errors into a line for each problem and an exit code: 2 for settings, 1 for everything else.

    `reworded` may say an error about settings in the user's words. A reader of our output that goes away (`| head`)
    ends the command without a word, as it does other programs.
    """
    try:
        yield
        print(end="", flush=True)  # a reader that is gone is noticed here at the latest
    except ConfigError as error:
        say(reworded(str(error)))
        raise typer.Exit(EXIT_BAD_SETTINGS) from None
    except BrokenPipeError:
        _write_nowhere()
        raise typer.Exit(EXIT_NOBODY_READS) from None
    except (TransomError, OSError) as error:
        say(str(error))
        raise typer.Exit(EXIT_FAILED) from None
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None


@contextmanager
def even_unheard() -> Iterator[None]:
    """For what a server says on standard output: a full disk behind it is no reason to end the server."""
    try:
        yield
        print(end="", flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        _write_nowhere()
        with suppress(OSError):
            say(f"standard output cannot be written and stays silent: {error.strerror}")


def say(message: str) -> None:
    """For the user: each line of the message on one of its own, under the program's name. Whoever's words are in it,
    they do not command the terminal."""
    for line in harmless(message).splitlines():
        if words := line.split():
            print(f"transom: {' '.join(words)}", file=sys.stderr)


def _write_nowhere() -> None:
    """What is still buffered would fail again when the interpreter flushes it at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
