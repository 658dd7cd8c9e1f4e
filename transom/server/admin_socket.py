"""The operator's Unix socket: made for its owner alone, taken over from a server that is gone, removed at the end."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from transom.errors import ConfigError

_BACKLOG = 16


@contextlib.contextmanager
def admin_listener(path: Path) -> Iterator[socket.socket]:
    """A listening socket at `path`, mode 0600 from its first moment; the file is removed at the end.

    Must begin before there are other threads that make files. Raises `ConfigError` when something else lies there, or
    another server listens.
    """
    _remove_leftover(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _bind(listener, path)
        inode = path.stat().st_ino
        try:
            yield listener
        finally:
            with contextlib.suppress(FileNotFoundError):
                if path.lstat().st_ino == inode:
                    path.unlink()
    finally:
        listener.close()


def _bind(listener: socket.socket, path: Path) -> None:
    mask = os.umask(0o177)
    try:
        listener.bind(str(path))
        listener.listen(_BACKLOG)
    except OSError as error:
        raise ConfigError(f"server.admin_socket: cannot listen on {path}: {error.strerror or error}") from None
    finally:
        os.umask(mask)


def _remove_leftover(path: Path) -> None:
    """A socket that nobody listens on any more; a server that was killed has left it."""
    try:
        is_socket = stat.S_ISSOCK(path.lstat().st_mode)
    except OSError:
        return
    if not is_socket:
        raise ConfigError(f"server.admin_socket: {path} is there and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError as error:
            if error.errno == errno.ECONNREFUSED:
                path.unlink()
            return
    raise ConfigError(f"server.admin_socket: another server listens on {path}")
