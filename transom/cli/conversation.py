"""A conversation in the terminal: lines are typed, answers come, Ctrl-C stops an answer, and Ctrl-D ends it all.

The event loop stands still while a line is typed: `input` owns the main thread then, with history and line editing.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

from transom.cli.banner import count_full_attention, window_text
from transom.cli.failure import say
from transom.cli.responder import Responder
from transom.engine import EngineState
from transom.errors import EngineError, RequestError, UnavailableError

_LEAVE = frozenset({"/bye", "/exit", "/quit"})
_HELP = """\
/bye, /exit, Ctrl-D   leave
/help                 this
Ctrl-C                stops an answer; at the prompt it leaves
arrow keys            edit the line, and bring back earlier ones
Anything else is for the model."""
_RESTART_POLL_SECONDS = 0.1


def converse(responder: Responder, runner: asyncio.Runner) -> None:
    """Until the end of input or /bye. An answer that cannot be given is said, and the conversation goes on.

    Raises `KeyboardInterrupt` for Ctrl-C at the prompt.
    """
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - `input` edits lines and remembers them once this is imported
    print(_greeting(responder), file=sys.stderr)
    while (line := _typed_line()) is not None:
        command = line.strip()
        if command in _LEAVE:
            return
        if command in ("/help", "/?"):
            print(_HELP, file=sys.stderr)
        elif command:
            _answer(line, responder, runner)


def _greeting(responder: Responder) -> str:
    """What is spoken to, and how to stop it."""
    served = responder.served
    kind = "chat" if responder.is_chat else "completion"
    window = window_text(served.model_config.sliding_window, count_full_attention(served.model_config))
    text = (
        f"{served.id} ({kind}), context window {served.engine_config.context_window} tokens, "
        f"attention window {window}. Ctrl-C stops an answer, Ctrl-D leaves, /bye too."
    )
    if responder.is_chat:
        return text
    reason = "The model has no chat template: every" if served.llm.chat_template.is_default else "Every"
    return f"{text}\n{reason} line is completed on its own."


def _typed_line() -> str | None:
    """One line, None at the end of input."""
    try:
        return input("> ")
    except EOFError:
        print()
        return None


def _answer(line: str, responder: Responder, runner: asyncio.Runner) -> None:
    try:
        runner.run(_answer_when_ready(line, responder))
    except (RequestError, UnavailableError, EngineError) as error:
        say(str(error))
    except KeyboardInterrupt:  # it ended the answer, which is all it was meant to end
        return


async def _answer_when_ready(line: str, responder: Responder) -> None:
    """A worker that died is started again only while the event loop runs, so it is waited for here."""
    while responder.served.engine.status.state is EngineState.RESTARTING:  # noqa: ASYNC110
        await asyncio.sleep(_RESTART_POLL_SECONDS)
    await responder.answer(line)
