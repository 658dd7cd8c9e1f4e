"""`transom run`: a prompt, what comes by a pipe, or a conversation; with a model in its own worker, or a server's."""

from __future__ import annotations

import asyncio
import io
import os
import stat
import sys
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from transom.cli.answers import AnswerSettings, Asked, ChatModel, Ending, Limit, Models
from transom.cli.failure import say
from transom.cli.options import ModelOptions
from transom.cli.terminal.chat import Chat
from transom.cli.terminal.conversation import Conversation, loading_shown
from transom.cli.terminal.history import InputHistory
from transom.cli.terminal.line_reader import LineReader, PlainReader
from transom.cli.terminal.local_models import LocalModels
from transom.cli.terminal.screen import Screen
from transom.cli.user_directories import state_directory
from transom.errors import ConfigError
from transom.llm.chat_events import ContentPiece, ReasoningPiece
from transom.request import FinishReason

STANDARD_INPUT = "-"
"""As a prompt: what comes by standard input."""
_HISTORY = "history"


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What the command line says beside the model and its answers."""

    system: str | None = None
    complete: bool = False
    """Texts are continued, even if the model has a chat template."""
    quiet: bool = False
    keeps_history: bool = True
    server: str | None = None
    """Address of a running server, which answers instead of a worker of this program."""
    api_key: str | None = None


def run_in_terminal(
    model_options: ModelOptions, prompt: str | None, settings: AnswerSettings, options: RunOptions
) -> None:
    """Answers `prompt`, or what comes by a pipe, or both in one; without either, everything that is typed.

    Blocks. Raises `KeyboardInterrupt` for Ctrl-C, except in a conversation.
    """
    _speak_utf8()
    screen = Screen()
    models = _models(model_options, options, screen)
    with asyncio.Runner() as runner:
        try:
            runner.run(_run(models, model_options.model or "", prompt, settings, options, screen))
        finally:
            runner.run(models.close())


def _models(model_options: ModelOptions, options: RunOptions, screen: Screen) -> Models:
    if options.server is None:
        return LocalModels(model_options, complete=options.complete, separates_reasoning=screen.is_terminal)
    from transom.cli.terminal.remote_models import RemoteModels  # nobody else waits for an HTTP client

    return RemoteModels(options.server, options.api_key, complete=options.complete)


async def _run(
    models: Models,
    name: str,
    prompt: str | None,
    settings: AnswerSettings,
    options: RunOptions,
    screen: Screen,
) -> None:
    with screen.bar(f"loading {Path(name).name}") as bar:
        await models.open(name, loading_shown(bar))
    if options.system is not None and not models.current.is_chat:
        raise ConfigError("--system needs a model with a chat template, and no --complete")
    text, chat = _given_text(prompt), Chat(options.system)
    if text is not None:
        await _answer_once(models.current, chat.asking(text, is_chat=models.current.is_chat), settings, screen)
        return
    conversation = Conversation(models, PlainReader(), screen, chat, settings, quiet=options.quiet)
    conversation.reader = _reader(conversation, options)
    await conversation.run()


def _reader(conversation: Conversation, options: RunOptions) -> LineReader:
    """Line editing needs a terminal at both ends that can move its cursor."""
    if not conversation.screen.can_edit or not sys.stdin.isatty():
        return PlainReader()
    from transom.cli.terminal.editing_reader import EditingReader  # takes a while, and pipes need none of it

    history = InputHistory(state_directory() / _HISTORY if options.keeps_history else None)
    return EditingReader(history, conversation.complete)


async def _answer_once(model: ChatModel, asked: Asked, settings: AnswerSettings, screen: Screen) -> None:
    """The answer and nothing else, on standard output."""
    ending: Ending | None = None
    try:
        async with aclosing(model.answer(asked, settings)) as pieces:
            async for piece in pieces:
                match piece:
                    case ContentPiece(text):
                        screen.write(text)
                    case ReasoningPiece(text):
                        screen.write(text, dim=True)
                    case Ending():
                        ending = piece
    finally:
        screen.end_answer(always=True)
    if ending is not None and ending.finish_reason is FinishReason.LENGTH:
        _say_limit(ending, settings)


def _say_limit(ending: Ending, settings: AnswerSettings) -> None:
    """Nobody asked for this number, so it is said."""
    if ending.limit is Limit.DEFAULT:
        say(f"stopped after {ending.max_tokens} tokens; -n N sets another limit, -n 0 leaves only the context window")
    elif settings.max_tokens is None or settings.max_tokens < 1:
        limit = "the context window" if ending.limit is Limit.WINDOW else "what the KV budgets hold"
        say(f"stopped at the end of {limit}, {ending.usage.num_prompt_tokens + ending.max_tokens} tokens")


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
