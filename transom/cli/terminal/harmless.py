"""Text of a model, or of anybody else, for a terminal: no character of it commands the terminal. Pure."""

from __future__ import annotations

_VISIBLE = {code: 0x2400 + code for code in range(0x20)} | {0x7F: 0x2421}
_NOTHING = dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
_TABLE = {**_VISIBLE, **_NOTHING, ord("\n"): ord("\n"), ord("\t"): ord("\t")}


def harmless(text: str) -> str:
    """Control characters show as the pictures that Unicode has of them; line ends and tabs stay."""
    return text.replace("\r\n", "\n").translate(_TABLE)
