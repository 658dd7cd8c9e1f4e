"""`Conversation`: the loop of a chat in the terminal. Reads, has commands carried out, shows answers as they come.

An answer that is stopped, or fails on its way, leaves what it said in the chat; one that cannot begin leaves nothing.
Nothing is ever cut to fit: a full context window is said, and the user chooses.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

from transom.cli.answers import AnswerSettings, Asked, ChatModel, Ending, Limit, Models, Piece, PromptProgress
from transom.cli.banner import size_text
from transom.cli.terminal.answer_clock import AnswerClock, AnswerFigures
from transom.cli.terminal.chat import Chat
from transom.cli.terminal.commands import complete_command, run_command
from transom.cli.terminal.interrupts import idle_interrupts_ignored, until_interrupted
from transom.cli.terminal.line_reader import LineReader, NoLine
from transom.cli.terminal.screen import LazyBar, Screen
from transom.cli.terminal.typed import meaning
from transom.errors import ContextLengthExceededError, EngineError, RequestError, TransomError, UnavailableError
from transom.llm.chat_events import ContentPiece, ReasoningPiece
from transom.request import FinishReason

_WAYS_OUT = "/truncate leaves out the oldest messages, /undo takes back the last turn, /clear begins anew"
_TOO_LONG = frozenset({"context_length_exceeded", "kv_budget_exceeded"})


@dataclass
class Conversation:
    """One conversation with one model at a time, which may change."""

    models: Models
    reader: LineReader
    screen: Screen
    chat: Chat
    settings: AnswerSettings
    quiet: bool = False
    """No line of figures after an answer."""
    last: AnswerFigures | None = None
    """Of the last answer."""
    refused: str | None = None
    """What was asked last and did not fit."""
    is_over: bool = False

    @property
    def model(self) -> ChatModel:
        return self.models.current

    async def run(self) -> None:
        """Until the end of input, or a command that leaves."""
        self.screen.note(f"{self.model.description} /help shows the commands; Ctrl-C stops an answer, Ctrl-D leaves.")
        with idle_interrupts_ignored():
            while not self.is_over and (typed := await self.reader.read()) is not NoLine.END:
                if typed is NoLine.INTERRUPT:
                    self.screen.note("Ctrl-C stops an answer; Ctrl-D or /quit leaves.")
                else:
                    await self._take(whole_characters(typed))

    def complete(self, typed: str) -> list[str]:
        """What a line that begins like this may become."""
        return complete_command(self, typed)

    async def ask(self, question: str) -> None:
        """Shows the answer to a question, or the continuation of a text."""
        self.refused = None
        asked = self.chat.asking(question, is_chat=self.model.is_chat)
        if not await self._show_answer(asked):
            self.refused = question

    async def go_on(self) -> None:
        """Shows more of the last answer."""
        asked = self.chat.going_on(is_chat=self.model.is_chat)
        if asked is None:
            self.screen.say("There is no answer that could go on.")
        else:
            await self._show_answer(asked)

    async def switch(self, name: str) -> None:
        """Another model takes over what was said. Raises what keeps it from being loaded."""
        with self.screen.bar(f"loading {name}") as bar:
            await self.models.open(name, loading_shown(bar))
        self.screen.note(self.model.description)

    async def _take(self, typed: str) -> None:
        """Whatever goes wrong with one message or command is said, and the conversation goes on."""
        try:
            if typed.strip().startswith("/"):
                if not await until_interrupted(run_command(self, typed.strip())):
                    self.screen.note("stopped")
            elif (text := meaning(typed).strip("\n")).strip():
                await self.ask(text)
        except (TransomError, OSError) as error:
            self.screen.complain(str(error))

    async def _show_answer(self, asked: Asked) -> bool:
        """False when the question did not fit, which is said."""
        shown = _ShownAnswer(self.screen)
        clock = AnswerClock()
        is_whole = True
        try:
            with self.screen.listening_for_interrupts_only():
                is_whole = await until_interrupted(self._stream(asked, shown, clock))
        except RequestError as error:
            self._say_refusal(error)
            return error.code not in _TOO_LONG
        except (UnavailableError, EngineError) as error:
            is_whole = False
            self.screen.end_answer()
            self.screen.complain(str(error))
        finally:
            self.screen.end_answer()
            if shown.text:
                self.chat.take(asked, shown.text)
        self._say_figures(shown, clock, is_whole=is_whole)
        return True

    async def _stream(self, asked: Asked, shown: _ShownAnswer, clock: AnswerClock) -> None:
        with self.screen.bar("reading the prompt") as bar:
            async with aclosing(self.model.answer(asked, self.settings)) as pieces:
                async for piece in pieces:
                    shown.take(piece, bar, clock)

    def _say_figures(self, shown: _ShownAnswer, clock: AnswerClock, *, is_whole: bool) -> None:
        ending = shown.ending
        self.last = clock.figures(None if ending is None else ending.usage)
        if not is_whole and ending is None:
            self.screen.note("stopped; what was said so far stays in the conversation" if shown.text else "stopped")
        elif not self.quiet:
            self.screen.note(self.last.line(self.model.context_window))
        if ending is not None and ending.finish_reason is FinishReason.LENGTH:
            self._say_limit(ending)

    def _say_limit(self, ending: Ending) -> None:
        match ending.limit:
            case Limit.DEFAULT | Limit.GIVEN:
                self.screen.note(
                    f"stopped after {ending.max_tokens} tokens; /more goes on, /set max_tokens N changes it"
                )
            case Limit.WINDOW | Limit.BUDGET:
                full = "context window is full" if ending.limit is Limit.WINDOW else "KV budgets are used up"
                num_tokens = ending.usage.num_prompt_tokens + ending.usage.num_completion_tokens
                self.screen.complain(f"The {full}: {num_tokens} tokens.")
                self.screen.say(self._ways_out())

    def _say_refusal(self, error: RequestError) -> None:
        if isinstance(error, ContextLengthExceededError):
            wanted = f"{error.num_prompt_tokens} tokens and {error.max_tokens} of an answer"
            self.screen.complain(f"{wanted} do not fit into the context window, {error.context_window} tokens.")
        else:
            self.screen.complain(str(error))
        if error.code in _TOO_LONG:
            self.screen.say(f"Nothing was cut. {self._ways_out()}")

    def _ways_out(self) -> str:
        if not self.model.is_chat:
            return "A shorter text fits."
        fewer = "; so does a smaller /set max_tokens" if (self.settings.max_tokens or 0) > 0 else ""
        return f"{_WAYS_OUT}{fewer}."


class _ShownAnswer:
    """What of an answer has been shown."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._reasons = False
        self.text = ""
        """Without reasoning: that is not told back to the model."""
        self.ending: Ending | None = None

    def take(self, piece: Piece, bar: LazyBar, clock: AnswerClock) -> None:
        match piece:
            case PromptProgress(done, total):
                bar.update(done, total, f"{done} of {total} tokens")
                return
            case Ending():
                self.ending = piece
            case ReasoningPiece(text):
                bar.stop()
                clock.text_came()
                self._reasons = True
                self._screen.write(text, dim=True)
            case ContentPiece(text) if text:
                bar.stop()
                clock.text_came()
                if self._reasons:
                    self._screen.write("\n\n", dim=True)
                    self._reasons = False
                self.text += text
                self._screen.write(text)


def whole_characters(typed: str) -> str:
    """Bytes that are no UTF-8 come as lone surrogates, which no model reads."""
    return typed.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def loading_shown(bar: LazyBar) -> Callable[[int, int], None]:
    """Progress of a load, in a bar."""
    return lambda done, total: bar.update(done, total, f"{size_text(done)} of {size_text(total)}")
