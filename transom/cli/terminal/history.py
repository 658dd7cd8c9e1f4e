"""`InputHistory`: what was typed in earlier conversations, in a file of its user alone. Owns the file.

A line of JSON for each entry, so that entries may have line ends. What cannot be read or written is nobody's trouble:
the history is then that of this conversation.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

_KEPT = 1000
_MOST_BYTES = 16 * 2**20


class InputHistory:
    """The entries, oldest first. Without a path nothing is kept."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.entries = [] if path is None else _read(path)
        if path is not None and len(self.entries) > 2 * _KEPT:
            self.entries = self.entries[-_KEPT:]
            with suppress(OSError):
                _write_anew(path, self.entries)

    def add(self, entry: str) -> None:
        """Appends an entry; it is in the file when this returns."""
        self.entries.append(entry)
        if self._path is not None:
            with suppress(OSError):
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                _write(self._path, os.O_APPEND, [entry])


def _read(path: Path) -> list[str]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, encoding="utf-8", errors="replace") as file:
            lines = file.read(_MOST_BYTES).splitlines()
    except OSError:
        return []
    return [entry for line in lines if isinstance(entry := _entry(line), str)]


def _entry(line: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _write_anew(path: Path, entries: list[str]) -> None:
    written = path.with_name(f"{path.name}.new")
    _write(written, os.O_TRUNC, entries)
    written.replace(path)


def _write(path: Path, mode: int, entries: list[str]) -> None:
    """Also a file that others could read becomes private."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | mode
    descriptor = os.open(path, flags, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o600)
        file.write("".join(f"{json.dumps(entry)}\n" for entry in entries).encode())
