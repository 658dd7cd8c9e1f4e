"""A disk that takes everything and gives nothing back while it hangs."""

from __future__ import annotations

from typing import Any, cast

from transom.cache.file_system import NUM_IO_THREADS, RealFileSystem
from transom.kernels import IOQueue, IOResult


class HungDisk(RealFileSystem):
    """Its transfers are never over while `hangs`; nobody waits for them in earnest. `waits` are the seconds that were
    to be waited."""

    def __init__(self) -> None:
        super().__init__()
        self.hangs = False
        self.waits: list[float | None] = []

    def io_queue(self) -> IOQueue:
        return cast(IOQueue, _HungQueue(self, IOQueue(NUM_IO_THREADS)))


class _HungQueue:
    def __init__(self, disk: HungDisk, queue: IOQueue) -> None:
        self._disk = disk
        self._queue = queue

    def submit_reads(self, *arguments: Any) -> int:
        return self._queue.submit_reads(*arguments)

    def submit_writes(self, *arguments: Any) -> int:
        return self._queue.submit_writes(*arguments)

    def poll(self, ticket: int) -> IOResult | None:
        return None if self._disk.hangs else self._queue.poll(ticket)

    def wait(self, ticket: int, timeout_seconds: float | None = None) -> IOResult:
        if self._disk.hangs:
            self._disk.waits.append(timeout_seconds)
            raise TimeoutError
        return self._queue.wait(ticket, timeout_seconds)

    def close(self) -> None:
        self._queue.close()
