"""When a message of several lines is complete, and what it says. Pure.

A line that ends with a backslash goes on; what begins with three quotation marks goes on until three more.
"""

from __future__ import annotations

_QUOTES = '"""'


def is_complete(typed: str) -> bool:
    """Whether Enter sends it."""
    text = typed.strip()
    if text.startswith(_QUOTES):
        return len(text) >= 2 * len(_QUOTES) and text.endswith(_QUOTES)
    return not typed.endswith("\\")


def meaning(typed: str) -> str:
    """The message: without the quotation marks around it, or the backslashes before its line ends."""
    text = typed.strip()
    if text.startswith(_QUOTES):
        return text.removeprefix(_QUOTES).removesuffix(_QUOTES).strip("\n")
    return typed.replace("\\\n", "\n").removesuffix("\\")
