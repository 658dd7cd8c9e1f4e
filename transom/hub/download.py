"""One file from a hub to this machine: what came so far is kept, and what is whole has the checksum that the hub names.

Knows no models and no directories; `Fetch` opens the stream, so that it knows no HTTP either.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Protocol

from transom.errors import HubError
from transom.hub.file_choice import HubFile
from transom.hub.repository import DroppedError, FileStream

Fetch = Callable[[int], AbstractContextManager[FileStream]]
"""The file's bytes from this one on."""
Progress = Callable[[int], None]
"""Told how many bytes of the file are there."""
Sleep = Callable[[float], None]

_DELAYS_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Before another try when a connection broke; as many tries without a single new byte are too many."""
_READ_BYTES = 1 << 20


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


class _Readable(Protocol):
    def read(self, num_bytes: int, /) -> bytes | None: ...


def download(file: HubFile, target: Path, fetch: Fetch, progress: Progress, sleep: Sleep = time.sleep) -> None:
    """Makes `target` the whole file. What is already there of it, in `target` or beside it, is used after a check.

    Blocks. Raises `HubError`: a wrong checksum (then nothing of the file is left), a full disk, or a connection that
    keeps breaking; after these, what came so far lies in `partial_path(target, file)`.
    """
    if _is_there(file, target):
        progress(file.size)
        return
    partial = partial_path(target, file)
    with closing(_Partial(file, partial)) as writing:
        _complete(file, writing, fetch, progress, sleep)
        is_right = writing.has_right_checksum()
        writing.sync()
    if not is_right:
        partial.unlink()
        raise HubError(
            f"{file.path} does not have the checksum that the hub names; it was removed. Try again; if that does not "
            "help, something between here and the hub changes files"
        )
    partial.rename(target)


def partial_path(target: Path, file: HubFile) -> Path:
    """Where a file gathers: another content of the same name has another place."""
    return target.with_name(f"{target.name}.{_expected(file)[:16]}.part")


def _expected(file: HubFile) -> str:
    if (digest := file.sha256 or file.git_sha1) is None:
        raise HubError(f"the hub names no checksum of {file.path}, so nobody could tell whether it arrives whole")
    return digest


def _complete(file: HubFile, writing: _Partial, fetch: Fetch, progress: Progress, sleep: Sleep) -> None:
    """Fetches until the file has its size."""
    num_failures = 0
    progress(writing.size)
    while writing.size < file.size:
        before = writing.size
        try:
            with fetch(writing.size) as stream:
                writing.continue_at(stream.start)
                for piece in stream.pieces:
                    writing.write(piece)
                    progress(writing.size)
            if writing.size < file.size:
                raise DroppedError("the hub ended the connection early")
        except DroppedError as error:
            num_failures = 1 if writing.size > before else num_failures + 1
            if num_failures > len(_DELAYS_SECONDS):
                raise HubError(
                    f"{file.path}: {error}; {writing.size} of {file.size} bytes are here, the same command goes on"
                ) from error
            sleep(_DELAYS_SECONDS[num_failures - 1])


class _Partial:
    """A file that grows, with the checksum of what it holds. Never follows a symbolic link."""

    def __init__(self, file: HubFile, path: Path) -> None:
        self._file = file
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._stream = os.fdopen(os.open(path, flags, 0o644), "r+b", buffering=0)
        self._hash = _new_hash(file)
        self.size = self._read_so_far()

    def continue_at(self, start: int) -> None:
        """The next byte is that of this position: where it stands, or the first one."""
        if start != self.size:
            self._begin_again()

    def write(self, data: bytes) -> None:
        """Raises `HubError` when the disk is full."""
        try:
            self._write_all(data)
        except OSError as error:
            self._stream.truncate(self.size)
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise HubError(
                f"the disk is full: {self.size} of {self._file.size} bytes of {self._file.path} are here; "
                "make room, and the same command goes on"
            ) from error
        self._hash.update(data)
        self.size += len(data)

    def has_right_checksum(self) -> bool:
        return self._hash.hexdigest() == _expected(self._file)

    def sync(self) -> None:
        """What was written outlives a power failure."""
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        self._stream.close()

    def _write_all(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._stream.write(rest) :]

    def _read_so_far(self) -> int:
        size = os.fstat(self._stream.fileno()).st_size
        if size > self._file.size:
            self._begin_again()
            return 0
        _feed(self._hash, self._stream)
        return size

    def _begin_again(self) -> None:
        self._stream.seek(0)
        self._stream.truncate()
        self._hash, self.size = _new_hash(self._file), 0


def _is_there(file: HubFile, target: Path) -> bool:
    """The whole file, of the right content; anything else under its name is removed."""
    try:
        status = target.lstat()
    except FileNotFoundError:
        return False
    if stat.S_ISREG(status.st_mode) and status.st_size == file.size:
        with target.open("rb") as stream:
            digest = _new_hash(file)
            _feed(digest, stream)
        if digest.hexdigest() == _expected(file):
            return True
    target.unlink()
    return False


def _new_hash(file: HubFile) -> _Hash:
    """SHA-256 of large files; of others git's own hash, which begins with their kind and size."""
    if file.sha256 is not None:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)


def _feed(digest: _Hash, stream: _Readable) -> None:
    while data := stream.read(_READ_BYTES):
        digest.update(data)
