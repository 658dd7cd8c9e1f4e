"""How one family of models writes function calls: what every format has, and the stream of events that a text is.

A format is chosen by the model's chat template (`transom.llm.tool_parsers.find_format`) or by its registry entry.
"""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from transom.llm.chat_events import ChatEvent


@dataclass(frozen=True, slots=True)
class Function:
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """JSON schema of the arguments, an object's."""


class CallParser(Protocol):
    """Reads one answer as it comes. The events do not depend on where the text is cut."""

    def feed(self, text: str) -> list[ChatEvent]:
        """What is certain after more text."""
        ...

    def finish(self) -> list[ChatEvent]:
        """What is left at the end of the text."""
        ...


class ToolFormat(ABC):
    """One way to write function calls. Stateless."""

    name: ClassVar[str]
    """In the registry file."""
    special_tokens: tuple[str, ...] = ()
    """Tokens that belong to the format; where a vocabulary has them as special ones they must be shown in the text."""

    @abstractmethod
    def parser(self, names: Collection[str]) -> CallParser:
        """For one answer, in which these functions may be called."""

    @abstractmethod
    def grammar(self, functions: Sequence[Function], mark: Mark, /, *, parallel: bool) -> str:
        """Rules of Lark, the first of them `calls`: calls of these functions and nothing else.

        `mark` writes the marks of the format; `parallel`: one or more calls.
        """

    def call_id(self) -> str:
        """A fresh id of a call."""
        return f"call_{secrets.token_hex(12)}"


class Mark(Protocol):
    """How a mark of the format is written in Lark: as a special token of the vocabulary, or as its text."""

    def __call__(self, text: str) -> str:
        """`<[151657]>`, or a quoted text."""
        ...
