"""The seam between the cold tier and the disk: every file it touches is opened, measured, punched and removed here.

Tests hand in `RealFileSystem(fault=...)`, whose n-th call fails, or a fake. Knows nothing of blocks, layers, budgets.
What goes wrong while a server starts is a ConfigError of one line; measuring and punching raise OSError.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import sqlite3
import stat
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from transom.errors import ConfigError
from transom.kernels import IOFault, IOQueue, punch_hole

__all__ = ["PAGE_BYTES", "FileSystem", "LockedDirectory", "OpenFile", "RealFileSystem"]

PAGE_BYTES = 4096
"""Direct I/O moves whole pages: sizes, offsets and addresses are multiples of this."""

NUM_IO_THREADS = 4
"""Enough to keep a fast disk busy; they mostly sleep."""

_MIB = 2**20
_LOCK_NAME = "lock"
_O_DIRECT: int = getattr(os, "O_DIRECT", 0)
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass(frozen=True, slots=True)
class LockedDirectory:
    """A directory that is ours alone until `close`, or until the process ends, however it ends."""

    path: Path
    lock_descriptor: int

    def close(self) -> None:
        """Gives up the lock. Once."""
        os.close(self.lock_descriptor)


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A cold file; what nobody has written to is zeros, without a block on disk."""

    path: Path
    descriptor: int
    is_direct: bool
    """Bytes bypass the page cache. Else the file system cannot do that, and what was touched is dropped afterwards."""

    def close(self) -> None:
        """Once, when nothing reads or writes any more."""
        os.close(self.descriptor)


class FileSystem(Protocol):
    """What the cold tier asks of a disk."""

    def prepare_directory(self, path: Path) -> LockedDirectory:
        """Makes the directory where it is missing, checks that it is ours, and locks it against other servers.

        ConfigError: a file, a symbolic link, another user's, not writable, or locked.
        """

    def names(self, directory: Path) -> list[str]:
        """What lies in the directory, in order. ConfigError."""

    def open_cold_file(self, path: Path, num_bytes: int, *, keep: bool = False) -> OpenFile:
        """A sparse file of `num_bytes`: zeros, or with `keep` what an earlier run left in it. ConfigError."""

    def read(self, path: Path) -> bytes | None:
        """The content of a small file of ours; None where there is none. ConfigError when it is not a file of ours."""

    def replace(self, path: Path, content: bytes) -> None:
        """The whole content or, after a crash, the one before. ConfigError when it cannot be written."""

    def remove(self, path: Path) -> None:
        """Removes a file, or the symbolic link itself; one that is not there is no error. ConfigError."""

    def physical_bytes(self, directory: Path) -> int:
        """What the directory and everything in it occupies on disk, metadata of the file system included. OSError."""

    def file_bytes(self, path: Path) -> int:
        """What one file occupies on disk, 0 where there is none. OSError."""

    def file_size(self, path: Path) -> int | None:
        """Where a regular file ends, holes included; None where there is none. OSError."""

    def punch(self, file: OpenFile, offset: int, num_bytes: int) -> None:
        """Gives a range back to the disk; it reads as zeros afterwards. OSError where that cannot be done."""

    def sync(self, file: OpenFile) -> None:
        """Blocks until what was written would survive a power failure. OSError: never try that file again."""

    def connect(self, path: Path) -> sqlite3.Connection:
        """A database of ours, made where it is missing; autocommit, for any thread. ConfigError, sqlite3.Error."""

    def io_queue(self) -> IOQueue:
        """New native threads for reading and writing; the caller closes them."""


class RealFileSystem:
    """The operating system's files.

    `fault` makes the n-th read, write or punch fail; `direct_io` False goes through the page cache from the start.
    """

    def __init__(self, fault: IOFault | None = None, *, direct_io: bool = True) -> None:
        self._fault = fault
        self._direct_io = direct_io

    def prepare_directory(self, path: Path) -> LockedDirectory:
        with _said_in_one_line(path):
            if path.is_symlink():
                raise ConfigError(f"ssd_path {path} is a symbolic link, must be a directory")
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_owner(path, path.stat())
            path.chmod(0o700)
            return LockedDirectory(path, _lock(path))

    def names(self, directory: Path) -> list[str]:
        with _said_in_one_line(directory):
            return sorted(entry.name for entry in directory.iterdir())

    def open_cold_file(self, path: Path, num_bytes: int, *, keep: bool = False) -> OpenFile:
        with _said_in_one_line(path.parent), _kept_open(path, os.O_RDWR | os.O_CREAT) as descriptor:
            num_kept_bytes = num_bytes if keep else 0
            os.ftruncate(descriptor, num_kept_bytes)
            is_direct = self._direct_io and _switch_to_direct(descriptor, num_kept_bytes)
            os.ftruncate(descriptor, num_kept_bytes)
            _make_sparse(path, descriptor, num_bytes)
            return OpenFile(path, descriptor, is_direct)

    def read(self, path: Path) -> bytes | None:
        if not os.path.lexists(path):
            return None
        with _said_in_one_line(path.parent), os.fdopen(_open_file(path, os.O_RDONLY), "rb") as file:
            return file.read()

    def replace(self, path: Path, content: bytes) -> None:
        temporary = path.with_name(path.name + ".tmp")
        self.remove(temporary)
        with _said_in_one_line(path.parent):
            with os.fdopen(_open_file(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
                file.write(content)
            temporary.replace(path)

    def remove(self, path: Path) -> None:
        with _said_in_one_line(path.parent):
            path.unlink(missing_ok=True)

    def physical_bytes(self, directory: Path) -> int:
        sizes = {(each.st_dev, each.st_ino): each.st_blocks * 512 for each in _statuses(directory)}
        return sum(sizes.values())

    def file_bytes(self, path: Path) -> int:
        try:
            return path.lstat().st_blocks * 512
        except FileNotFoundError:
            return 0

    def file_size(self, path: Path) -> int | None:
        try:
            status = path.lstat()
        except FileNotFoundError:
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def sync(self, file: OpenFile) -> None:
        os.fdatasync(file.descriptor)

    def connect(self, path: Path) -> sqlite3.Connection:
        with _said_in_one_line(path.parent):
            os.close(_open_file(path, os.O_RDWR | os.O_CREAT))
        return sqlite3.connect(path, timeout=0.0, isolation_level=None, check_same_thread=False)

    def punch(self, file: OpenFile, offset: int, num_bytes: int) -> None:
        punch_hole(file.descriptor, offset, num_bytes, self._fault)

    def io_queue(self) -> IOQueue:
        return IOQueue(NUM_IO_THREADS, self._fault)


@contextmanager
def _said_in_one_line(path: Path) -> Iterator[None]:
    """Errors of the operating system become a ConfigError about the directory."""
    try:
        yield
    except (FileExistsError, NotADirectoryError) as error:
        culprit = next(each for each in (path, *path.parents) if os.path.lexists(each))
        raise ConfigError(f"ssd_path {culprit} is a file, must be a directory") from error
    except BlockingIOError as error:
        raise ConfigError(
            f"ssd_path {path} is locked by another server; stop that one, or use another directory"
        ) from error
    except OSError as error:
        reason = f"{error.strerror}" if error.filename in (None, str(path)) else f"{error.filename}: {error.strerror}"
        verdict = "is not writable" if error.errno in _NOT_WRITABLE else "cannot be used"
        raise ConfigError(f"ssd_path {path} {verdict}: {reason}") from error


def _check_owner(path: Path, status: os.stat_result) -> None:
    if status.st_uid != os.geteuid():
        raise ConfigError(
            f"ssd_path {path} belongs to user {status.st_uid}, must belong to the user of this server ({os.geteuid()})"
        )


def _lock(directory: Path) -> int:
    """BlockingIOError when another process has it."""
    with _kept_open(directory / _LOCK_NAME, os.O_RDWR | os.O_CREAT) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return descriptor


@contextmanager
def _kept_open(path: Path, flags: int) -> Iterator[int]:
    """As `_open_file`; closed again only when the body fails."""
    descriptor = _open_file(path, flags)
    try:
        yield descriptor
    except BaseException:
        os.close(descriptor)
        raise


def _open_file(path: Path, flags: int) -> int:
    """A regular file of ours, no link to one, readable by nobody else."""
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise ConfigError(f"ssd_path {path} is a symbolic link, must be a file") from error
    try:
        _check_file(path, os.fstat(descriptor))
        os.fchmod(descriptor, 0o600)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check_file(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"ssd_path {path} is not a regular file")
    if status.st_nlink > 1:
        raise ConfigError(f"ssd_path {path} has a second name elsewhere (a hard link); remove it")
    _check_owner(path, status)


def _make_sparse(path: Path, descriptor: int, num_bytes: int) -> None:
    """Gives an empty file its size. ConfigError with the largest possible one where it is too much."""
    if _can_be_as_large(descriptor, num_bytes):
        return
    largest = bisect_left(range(1, num_bytes), True, key=lambda size: not _can_be_as_large(descriptor, size))
    raise ConfigError(
        f"ssd_path {path.parent} cannot hold the file of {num_bytes // _MIB} MiB that max_ssd_mb asks for: files there "
        f"are at most {largest // _MIB} MiB (by the file system, or ulimit -f)"
    )


def _can_be_as_large(descriptor: int, num_bytes: int) -> bool:
    try:
        os.ftruncate(descriptor, num_bytes)
    except OSError as error:
        if error.errno not in (errno.EFBIG, errno.EINVAL):
            raise
        return False
    return True


def _switch_to_direct(descriptor: int, offset: int) -> bool:
    """Past the page cache from now on, if an aligned page can be written and read that way at `offset`, the end."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | _O_DIRECT)
        if _O_DIRECT and _page_comes_back(descriptor, offset):
            return True
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)  # no reading ahead
    return False


def _page_comes_back(descriptor: int, offset: int) -> bool:
    with mmap.mmap(-1, PAGE_BYTES) as written, mmap.mmap(-1, PAGE_BYTES) as read:
        written[:] = bytes(range(256)) * (PAGE_BYTES // 256)
        os.pwritev(descriptor, [written], offset)
        os.preadv(descriptor, [read], offset)
        return written[:] == read[:]


def _statuses(directory: Path) -> Iterator[os.stat_result]:
    """Of the directory and of everything below it; what disappears meanwhile is left out."""
    yield directory.lstat()
    with os.scandir(directory) as entries:
        for entry in entries:
            try:
                if entry.is_dir(follow_symlinks=False):
                    yield from _statuses(Path(entry.path))
                else:
                    yield entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
