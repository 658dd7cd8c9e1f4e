"""`transom run`: one model in its own worker, without HTTP: a prompt, what comes by a pipe, or a conversation."""

from __future__ import annotations

import asyncio
import io
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from transom.cli.conversation import converse
from transom.cli.options import ModelOptions
from transom.cli.responder import Responder, Sampling
from transom.cli.sources import adjust_limits, load_registry, num_threads
from transom.registry import ModelRegistry, ServedModel

STANDARD_INPUT = "-"
"""As a prompt: what comes by standard input."""


def run_in_terminal(
    options: ModelOptions, prompt: str | None, sampling: Sampling, *, system: str | None, complete: bool
) -> None:
    """Answers `prompt`, or what comes by a pipe, or both in one; without either, everything that is typed.

    Blocks. Raises `KeyboardInterrupt` for Ctrl-C, except where it stops an answer of a conversation.
    """
    _speak_utf8()
    with asyncio.Runner() as runner, _loaded(options, runner) as served:
        responder = Responder(served, sampling, system, complete=complete)
        text = _given_text(prompt)
        if text is None:
            converse(responder, runner)
        else:
            runner.run(responder.answer(text))


@contextmanager
def _loaded(options: ModelOptions, runner: asyncio.Runner) -> Iterator[ServedModel]:
    entries = load_registry(options).models[:1]
    registry = ModelRegistry.prepare(
        entries, num_threads=num_threads(options), adjust=lambda config: adjust_limits(options, config)
    )
    try:
        for failure in runner.run(registry.start()):
            raise failure.error
        yield registry.first()
    finally:
        runner.run(registry.close())


def _speak_utf8() -> None:
    """Whatever the locale says: models speak UTF-8, and a stray byte is no reason to stop."""
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="replace")


def _given_text(prompt: str | None) -> str | None:
    """What is to be answered: what was piped, then the prompt; None when neither is there, but a terminal."""
    if prompt is None:
        return None if sys.stdin is not None and sys.stdin.isatty() else _piped_text()
    if prompt == STANDARD_INPUT:
        return _piped_text()
    context = _piped_text() if _is_pipe_or_file() else ""
    return f"{context}\n\n{prompt}" if context else prompt


def _is_pipe_or_file() -> bool:
    """Somebody means standard input to be read; a terminal, /dev/null or a socket are there anyway."""
    if sys.stdin is None:
        return False
    mode = os.fstat(sys.stdin.fileno()).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def _piped_text() -> str:
    """All of standard input, without the one newline that ends the last line of every text file."""
    return "" if sys.stdin is None else sys.stdin.read().removesuffix("\n")
