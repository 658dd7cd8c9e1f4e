"""What a chat answer is made of, piece by piece: plain data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ContentPiece:
    """Text for the reader."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningPiece:
    """Text that the model wrote for itself."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """The model calls a function; its arguments follow."""

    name: str


@dataclass(frozen=True, slots=True)
class ArgumentsPiece:
    """More of the arguments of the last call: JSON, as the model wrote it."""

    text: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    """The arguments of the last call are complete."""


ChatEvent = ContentPiece | ReasoningPiece | CallStart | ArgumentsPiece | CallEnd
