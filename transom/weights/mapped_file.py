"""`MappedFile`: a weight file in memory, read-only, whose pages can be given back. Knows no format."""

from __future__ import annotations

import mmap
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transom.errors import WeightsError

__all__ = ["MappedFile"]


@dataclass(frozen=True, slots=True)
class MappedFile:
    """A regular file as one run of bytes. Safe to use from several threads."""

    path: Path
    mapping: mmap.mmap
    num_bytes: int
    identity: tuple[int, int]
    """Device and inode."""
    modified_ns: int
    """When the file was last written to before it was opened."""
    changed_ns: int
    """When the file or what the system knows of it was last changed; nobody can set that time back."""

    @classmethod
    def open(cls, path: Path, file_format: str, least_bytes: int) -> MappedFile:
        """Maps the file. Raises WeightsError naming it when it is no regular file of at least `least_bytes`."""
        try:
            # O_NONBLOCK: opening a FIFO must not wait for a writer
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise WeightsError(f"{path}: cannot be opened: {error.strerror}") from None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise WeightsError(f"{path}: is not a regular file")
            if status.st_size < least_bytes:
                raise WeightsError(f"{path}: {status.st_size} bytes are too few for a {file_format} file")
            mapping = mmap.mmap(descriptor, status.st_size, access=mmap.ACCESS_READ)
            identity = (status.st_dev, status.st_ino)
            return cls(path, mapping, status.st_size, identity, status.st_mtime_ns, status.st_ctime_ns)
        finally:
            os.close(descriptor)

    def view(self, dtype: np.dtype[Any], begin: int, end: int) -> NDArray[Any]:
        """Bytes `begin .. end` where they lie, as [n] of `dtype`; read-only, possibly unaligned."""
        return np.frombuffer(self.mapping, dtype, (end - begin) // dtype.itemsize, begin)

    def release(self, begin: int, end: int) -> None:
        """Gives the RAM behind whole pages of `begin .. end` back to the system; reading them again reads the file.

        Whoever calls this has read them: raises WeightsError when the file was written to since it was opened, for
        what was read may be of two files then.
        """
        self._check_unchanged()
        page = mmap.PAGESIZE
        start = -(-begin // page) * page
        length = end // page * page - start
        if length > 0:
            self.mapping.madvise(mmap.MADV_DONTNEED, start, length)

    def _check_unchanged(self) -> None:
        """A file that took over the name changes nothing: the mapping keeps the old one."""
        try:
            status = self.path.stat()
        except OSError:
            return
        if (status.st_dev, status.st_ino) != self.identity:
            return
        if (status.st_size, status.st_mtime_ns) != (self.num_bytes, self.modified_ns):
            raise WeightsError(f"{self.path}: was changed while it was read")
