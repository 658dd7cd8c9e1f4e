"""A conversation in a file: the body of a request, so that other programs can use it, too. Private to its owner."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from transom.cli.answers import Message
from transom.cli.terminal.chat import Chat
from transom.config.json_file import read_json_object
from transom.errors import ConfigError

_ROLES = frozenset({"system", "user", "assistant"})


def save_chat(path: Path, chat: Chat, model: str) -> None:
    """Writes `{"model", "messages"}`, or `{"model", "prompt"}`; replaces what an earlier save wrote, and nothing else.

    Raises `ConfigError` for a file that is none, OSError.
    """
    if path.is_symlink() or path.exists():
        _check_is_chat(path)
    body: dict[str, Any] = {"model": model}
    if chat.messages or not chat.text:
        body["messages"] = list(chat.with_system(chat.messages))
    else:
        body["prompt"] = chat.text
    written = path.with_name(f"{path.name}.{os.getpid()}.new")
    descriptor = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(body, file, ensure_ascii=False, indent=2)
            file.write("\n")
        written.replace(path)
    except BaseException:
        written.unlink(missing_ok=True)
        raise


def load_chat(path: Path) -> Chat:
    """Raises `ConfigError` naming what is wrong with the file."""
    body = read_json_object(path)
    chat = Chat()
    if "prompt" in body:
        chat.text = _text(path, body["prompt"])
        return chat
    messages = body.get("messages")
    if not isinstance(messages, list):
        raise ConfigError(f"{path}: holds no conversation: no 'messages' and no 'prompt'")
    for number, value in enumerate(messages):
        message = _message(path, number, value)
        if message["role"] == "system":
            chat.system = message["content"]
        else:
            chat.messages.append(message)
    return chat


def _check_is_chat(path: Path) -> None:
    try:
        load_chat(path)
    except ConfigError:
        raise ConfigError(f"{path} exists and is no saved conversation; it is left alone") from None


def _message(path: Path, number: int, value: object) -> Message:
    if not isinstance(value, dict) or value.get("role") not in _ROLES:
        raise ConfigError(f"{path}: messages[{number}] needs a role: system, user or assistant")
    if value["role"] == "system" and number > 0:
        raise ConfigError(f"{path}: messages[{number}] is a system message, which can only be the first")
    return {"role": value["role"], "content": _text(path, value.get("content"))}


def _text(path: Path, value: object) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{path}: every message is a text")
    return value
