"""How a single token is written in answers. OpenAI's conventions for tokens that are no whole UTF-8 text."""

from __future__ import annotations


def token_text(token_bytes: bytes) -> str:
    r"""A token in a chat's log probabilities: its text, or `\xf0\x9f` for a part of a character."""
    try:
        return token_bytes.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(f"\\x{byte:02x}" for byte in token_bytes)


def completion_token_text(token_bytes: bytes) -> str:
    r"""A token in a completion's log probabilities: its text, or `bytes:\xf0\x9f` for a part of a character."""
    text = token_text(token_bytes)
    return text if text.encode() == token_bytes else f"bytes:{text}"
