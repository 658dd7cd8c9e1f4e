"""How fast a directory's disk reads and writes, through the very queue and files of the cold tier.

What is written is a file without a name, at most 256 MiB: it is gone when this process ends, however it ends.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from transom import kernels
from transom.cache.file_system import PAGE_BYTES, FileSystem, OpenFile, RealFileSystem

__all__ = ["MAX_FILE_BYTES", "DiskSpeed", "measure_disk", "nearest_directory"]

MIB = 2**20
MAX_FILE_BYTES = 256 * MIB

_TICKET_BYTES = 4 * MIB
_NUM_TICKETS = 8
"""So many transfers are under way at once, unless fewer bytes may be."""
_ROUNDS_OF_RING = 4
"""As the staging ring shares itself out."""
_SECONDS = 0.5
"""No pass takes much longer: a slow disk is measured by fewer bytes."""


@dataclass(frozen=True, slots=True)
class DiskSpeed:
    """Of the disk that a directory is on."""

    is_direct: bool
    """Bytes bypass the page cache."""
    punches_holes: bool
    """Parts of a file can be given back."""
    write_bytes_per_second: float
    read_bytes_per_second: float
    """One piece behind the other, in pieces of the largest of the sizes."""
    random_bytes_per_second: dict[int, float]
    """By the size of the pieces, in bytes."""


def measure_disk(
    directory: Path,
    piece_sizes: Sequence[int],
    *,
    num_bytes: int = MAX_FILE_BYTES // 2,
    seconds: float = _SECONDS,
    in_flight_bytes: int = _NUM_TICKETS * _TICKET_BYTES,
    file_system: FileSystem | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> DiskSpeed:
    """Writes and reads for up to `seconds` each; pieces are whole pages, of which so many bytes are under way at once.

    A directory that is not there yet is measured where it would be made. OSError, or ConfigError, where nothing can be
    written.
    """
    disk = file_system or RealFileSystem()
    with _nameless_file(disk, directory, min(num_bytes, MAX_FILE_BYTES)) as file:
        queue = disk.io_queue()
        try:
            largest = max(piece_sizes)
            bench = _Bench(queue, file, clock, seconds, in_flight_bytes)
            num_written, write_rate = bench.write(largest, min(num_bytes, MAX_FILE_BYTES))
            reads = {size: bench.read(size, num_written, is_random=True) for size in piece_sizes}
            sequential = bench.read(largest, num_written, is_random=False)
            return DiskSpeed(file.is_direct, _punches(disk, file), write_rate, sequential, reads)
        finally:
            queue.close()


def nearest_directory(path: Path) -> Path:
    """The path itself or, where nothing is there yet, the first of its parents that is there."""
    return next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())


@contextmanager
def _nameless_file(disk: FileSystem, directory: Path, num_bytes: int) -> Iterator[OpenFile]:
    """As a cold file is opened; its name is gone at once, so that nothing is left whatever happens."""
    with TemporaryDirectory(prefix=".transom-speed-", dir=nearest_directory(directory)) as place:
        file = disk.open_cold_file(Path(place) / "speed", num_bytes)
        disk.remove(file.path)
    try:
        yield file
    finally:
        file.close()


def _punches(disk: FileSystem, file: OpenFile) -> bool:
    with suppress(OSError):
        disk.punch(file, 0, PAGE_BYTES)
        return True
    return False


@dataclass(frozen=True, slots=True)
class _Bench:
    """One file and who moves its bytes."""

    queue: kernels.IOQueue
    file: OpenFile
    clock: Callable[[], float]
    seconds: float
    in_flight_bytes: int

    def write(self, piece_bytes: int, num_bytes: int) -> tuple[int, float]:
        """How many bytes were written, from the start on, and bytes per second."""
        pieces = np.arange(max(1, num_bytes // piece_bytes), dtype=np.int64) * piece_bytes
        num_pieces, rate = self._move(self.queue.submit_writes, pieces, piece_bytes)
        return num_pieces * piece_bytes, rate

    def read(self, piece_bytes: int, num_bytes: int, *, is_random: bool) -> float:
        """Bytes per second over the first `num_bytes` of the file."""
        pieces = np.arange(max(1, num_bytes // piece_bytes), dtype=np.int64) * piece_bytes
        if is_random:
            pieces = np.random.default_rng(0).permutation(pieces)
        return self._move(self.queue.submit_reads, pieces, piece_bytes)[1]

    def _move(self, submit: Callable[..., int], offsets: NDArray[np.int64], piece_bytes: int) -> tuple[int, float]:
        per_ticket = max(1, min(_TICKET_BYTES, self.in_flight_bytes // _ROUNDS_OF_RING) // piece_bytes)
        num_tickets = max(1, min(_NUM_TICKETS, self.in_flight_bytes // (per_ticket * piece_bytes)))
        arena = kernels.allocate_arena(per_ticket * num_tickets * piece_bytes)
        arena[:] = np.random.default_rng(0).integers(0, 256, arena.nbytes, dtype=np.uint8)
        tickets: deque[int] = deque()
        started, num_pieces = self.clock(), 0
        try:
            for number, first in enumerate(range(0, len(offsets), per_ticket)):
                if len(tickets) == num_tickets:
                    self._finish(tickets.popleft())
                if self.clock() - started > self.seconds:
                    break
                part = offsets[first : first + per_ticket]
                slots = np.arange(len(part), dtype=np.int32) + number % num_tickets * per_ticket
                checksums = np.zeros((len(part), 2), np.uint64)
                tickets.append(submit(self.file.descriptor, part, arena, slots, piece_bytes, checksums))
                num_pieces += len(part)
        finally:
            while tickets:
                self._finish(tickets.popleft())
        return num_pieces, num_pieces * piece_bytes / (self.clock() - started)

    def _finish(self, ticket: int) -> None:
        """Wrong checksums are expected, for nobody kept them."""
        for error in self.queue.wait(ticket).errors.tolist():
            if error > 0:
                raise OSError(error, "reading or writing failed")
