"""From a vocabulary entry ("piece") to the bytes it stands for, as the `decoder` of `tokenizer.json` says.

Only decoders that act on each piece alone are taken: then text is a concatenation of bytes and can be streamed.
Where a run of byte tokens is not valid UTF-8, the bytes decide, one U+FFFD per broken sequence, not the run as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from transom.errors import TokenizerError

PieceStep = Callable[[bytes], bytes]
"""One transformation of a piece on its way to bytes."""

_BYTE_PIECE = re.compile(rb"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True, slots=True)
class PieceDecoder:
    """How pieces become bytes. Immutable; safe to share between threads."""

    steps: tuple[PieceStep, ...]
    num_leading_spaces: int
    """So many spaces are taken away, where present, from the start of a whole text."""
    literal: frozenset[str] = frozenset()
    """Pieces that stand for themselves."""

    @classmethod
    def from_json(cls, decoder: Mapping[str, Any] | None, *, literal: Iterable[str] = ()) -> PieceDecoder:
        """From the `decoder` member of `tokenizer.json`; TokenizerError names what cannot be decoded piece by piece."""
        if decoder is None:  # the `tokenizers` library then joins pieces by spaces
            return cls((_space_before,), 1, frozenset(literal))
        stages = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
        return cls(tuple(_steps(stages)), sum(map(_leading_spaces, stages)), frozenset(literal))

    def __call__(self, piece: str) -> bytes:
        """The bytes of one vocabulary entry."""
        result = piece.encode()
        for step in () if piece in self.literal else self.steps:
            result = step(result)
        return result

    def strip_leading_space(self, text: bytes) -> bytes:
        """What the decoder leaves of the first piece of a whole text."""
        for _ in range(self.num_leading_spaces):
            text = text.removeprefix(b" ")
        return text


def _steps(stages: Iterable[Mapping[str, Any]]) -> Iterable[PieceStep]:
    for stage in stages:
        match stage:
            case {"type": "ByteLevel"}:
                yield _byte_level
            case {"type": "ByteFallback"}:
                yield _byte_fallback
            case {"type": "Metaspace", "replacement": str(mark)}:
                yield _replace(mark, " ")
            case {"type": "Replace", "pattern": {"String": str(pattern)}, "content": str(content)}:
                yield _replace(pattern, content)
            case {"type": "Fuse"} | {"type": "Strip", "content": " ", "stop": 0}:
                pass  # fusing changes no bytes; stripping concerns the start of the text only
            case _:
                raise TokenizerError(f"tokenizer.json: the decoder {dict(stage)} is not supported")


def _leading_spaces(stage: Mapping[str, Any]) -> int:
    if stage["type"] == "Strip":
        return int(stage["start"])
    return int(stage["type"] == "Metaspace" and stage.get("prepend_scheme", "always") != "never")


def _space_before(piece: bytes) -> bytes:
    return b" " + piece


def _replace(pattern: str, content: str) -> PieceStep:
    old, new = pattern.encode(), content.encode()
    return lambda piece: piece.replace(old, new)


def _byte_fallback(piece: bytes) -> bytes:
    match = _BYTE_PIECE.fullmatch(piece)
    return bytes.fromhex(match[1].decode()) if match else piece


def _byte_level(piece: bytes) -> bytes:
    """Pieces outside the alphabet (added tokens) stand for themselves."""
    table = _byte_level_alphabet()
    try:
        return bytes(table[character] for character in piece.decode())
    except KeyError:
        return piece


@cache
def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins: a byte that is a visible Latin-1 character is itself, others follow at U+0100."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + index): byte for index, byte in enumerate(hidden)}
