"""Reads JSON files that may come from anybody: bounded, strict, one clear error. Knows no key's meaning."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from transom.errors import ConfigError

__all__ = ["MAX_JSON_BYTES", "read_json_list", "read_json_object"]

MAX_JSON_BYTES = 16 * 2**20


def read_json_object(path: Path) -> dict[str, Any]:
    """The file's top-level object. Duplicate keys are refused: two readers could disagree about which one counts.

    Non-finite numbers come through as floats; whoever reads the key refuses them by name. Raises ConfigError.
    """
    value = _read_json(path)
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: must hold a JSON object, holds {type(value).__name__}")
    return value


def read_json_list(path: Path) -> list[Any]:
    """As `read_json_object`, for a file whose top level is a list."""
    value = _read_json(path)
    if not isinstance(value, list):
        raise ConfigError(f"{path}: must hold a JSON list, holds {type(value).__name__}")
    return value


def _read_json(path: Path) -> Any:
    try:
        return json.loads(_read_text(path), object_pairs_hook=_unique)
    except RecursionError:
        raise ConfigError(f"{path}: is nested too deeply") from None
    except ValueError as error:  # includes JSONDecodeError and integers of absurd length
        raise ConfigError(f"{path}: is not valid JSON: {error}") from None


def _read_text(path: Path) -> str:
    try:
        # O_NONBLOCK: opening a FIFO must not wait for a writer
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ConfigError(f"{path}: is not a regular file")
            raw = file.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) > MAX_JSON_BYTES:
        raise ConfigError(f"{path}: is larger than {MAX_JSON_BYTES} bytes, the limit for a settings file")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 at byte {error.start}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for key, value in pairs:
        if key in seen:
            raise ValueError(f"key {key!r} appears twice")
        seen[key] = value
    return seen
