"""`EditingReader`: reads with line editing, history and completion. The one that knows prompt_toolkit."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import History
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from transom.cli.terminal.history import InputHistory
from transom.cli.terminal.line_reader import CONTINUATION, PROMPT, NoLine
from transom.cli.terminal.typed import is_complete

Complete = Callable[[str], Iterable[str]]
"""What a line may become, given what stands before the cursor: whole lines."""

_MENU_LINES = 4


class EditingReader:
    """Enter sends, Alt-Enter begins a new line, Tab completes, the arrows bring back what was typed before."""

    def __init__(self, history: InputHistory, complete: Complete) -> None:
        self._session = PromptSession[str](
            PROMPT,
            multiline=True,
            prompt_continuation=CONTINUATION,
            history=_History(history),
            completer=_Completer(complete),
            complete_while_typing=Condition(lambda: get_app().current_buffer.text.startswith("/")),
            key_bindings=_key_bindings(),
            reserve_space_for_menu=_MENU_LINES,
            enable_open_in_editor=False,
        )

    async def read(self) -> str | NoLine:
        try:
            return await self._session.prompt_async()
        except EOFError:
            return NoLine.END
        except KeyboardInterrupt:
            return NoLine.INTERRUPT


def _key_bindings() -> KeyBindings:
    bindings = KeyBindings()

    @bindings.add("enter")
    def send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if is_complete(buffer.text):
            buffer.validate_and_handle()
        else:
            buffer.insert_text("\n")

    @bindings.add("escape", "enter")
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @bindings.add("c-c")
    @bindings.add("<sigint>")
    def clear(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt)

    return bindings


class _History(History):
    """Ours, in the library's words; a command is no less worth remembering than a message."""

    def __init__(self, history: InputHistory) -> None:
        super().__init__()
        self._history = history

    async def load(self) -> AsyncGenerator[str, None]:
        for entry in reversed(self._history.entries):
            yield entry

    def load_history_strings(self) -> Iterable[str]:
        return reversed(self._history.entries)

    def store_string(self, string: str) -> None:
        self._history.add(string)

    def append_string(self, string: str) -> None:
        self.store_string(string)

    def get_strings(self) -> list[str]:
        return list(self._history.entries)


class _Completer(Completer):
    """Of commands and what follows them."""

    def __init__(self, complete: Complete) -> None:
        self._complete = complete

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:  # noqa: ARG002
        typed = document.text_before_cursor
        for line in self._complete(typed):
            yield Completion(line, start_position=-len(typed), display=line.rpartition(" ")[2] or line)
