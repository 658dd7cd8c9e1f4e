"""`Chat`: what was said so far. Pure; knows no model and no terminal.

A chat is messages; where a model only continues texts, it is the text that it went on with last.
"""

from __future__ import annotations

from collections.abc import Iterable

from transom.cli.answers import Asked, Message


class Chat:
    """Turns of a question and its answer, behind a system message if there is one."""

    def __init__(self, system: str | None = None) -> None:
        self.system = system
        self.messages: list[Message] = []
        """Without the system message."""
        self.text = ""
        """Of a model that continues texts: the last one with its continuation."""

    @property
    def is_empty(self) -> bool:
        return not self.messages and not self.text

    def with_system(self, messages: Iterable[Message]) -> tuple[Message, ...]:
        """Messages behind the system message."""
        first = () if self.system is None else ({"role": "system", "content": self.system},)
        return (*first, *messages)

    def asking(self, question: str, *, is_chat: bool) -> Asked:
        """What is asked of a model when this is typed."""
        if not is_chat:
            return Asked(text=question)
        return Asked(self.with_system([*self.messages, {"role": "user", "content": question}]))

    def going_on(self, *, is_chat: bool) -> Asked | None:
        """What is asked when the last answer is to go on; None when there is none."""
        if not is_chat:
            return Asked(text=self.text) if self.text else None
        if not self.messages or self.messages[-1]["role"] != "assistant":
            return None
        return Asked(self.with_system(self.messages), continues=True)

    def said(self, *, is_chat: bool) -> Asked | None:
        """All of it, for counting; None when nothing was said."""
        if not is_chat or not self.messages:
            return Asked(text=self.text) if self.text else None
        return Asked(self.with_system(self.messages), continues=self.messages[-1]["role"] == "assistant")

    def take(self, asked: Asked, reply: str) -> None:
        """An answer was given, be it cut off."""
        if asked.text is not None:
            self.text = asked.text + reply
        elif asked.continues:
            last = self.messages[-1]
            self.messages[-1] = {**last, "content": last["content"] + reply}
        else:
            self.messages += [asked.messages[-1], {"role": "assistant", "content": reply}]

    def undo(self) -> str | None:
        """Takes back the last turn; the question of it, None when there is none."""
        self.text = ""
        while self.messages:
            message = self.messages.pop()
            if message["role"] == "user":
                return message["content"]
        return None

    def clear(self) -> None:
        """Begins anew; the system message stays."""
        self.messages, self.text = [], ""

    def leave_out(self, indices: Iterable[int]) -> None:
        """Messages go; numbers count the system message, too, which stays."""
        shift = 0 if self.system is None else 1
        gone = {index - shift for index in indices}
        self.messages = [message for index, message in enumerate(self.messages) if index not in gone]
