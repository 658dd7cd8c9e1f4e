"""How a command fails: one clear line on standard error and an exit code, never a traceback for what is not a bug."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from transom.errors import ConfigError, TransomError

EXIT_FAILED = 1
EXIT_BAD_SETTINGS = 2
EXIT_INTERRUPTED = 130


@contextmanager
def told_in_one_line() -> Iterator[None]:
    """Turns expected errors into their line and exit code: 2 for settings, 1 for everything else."""
    try:
        yield
    except ConfigError as error:
        say(str(error))
        raise typer.Exit(EXIT_BAD_SETTINGS) from None
    except (TransomError, OSError) as error:
        say(str(error))
        raise typer.Exit(EXIT_FAILED) from None
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None


def say(message: str) -> None:
    """One line for the user."""
    print(f"transom: {' '.join(message.split())}", file=sys.stderr)
