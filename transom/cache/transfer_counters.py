"""The counting half of `TransferStats`. Counted where it happens, never derived."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from transom.cache.stats import TransferStats
from transom.histogram import Histogram
from transom.kernels import IOResult

_BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@dataclass(slots=True)
class TransferCounters:
    """Used by one thread."""

    clock: Callable[[], float]
    num_bytes_read: int = 0
    read_seconds: float = 0.0
    num_bytes_written: int = 0
    write_seconds: float = 0.0
    num_blocks_written: int = 0
    stall_seconds: float = 0.0
    num_checksum_failures: int = 0
    num_read_errors: int = 0
    num_write_errors: int = 0
    read_latency: Histogram = field(default_factory=lambda: Histogram(_BOUNDS))
    write_latency: Histogram = field(default_factory=lambda: Histogram(_BOUNDS))

    def count_read(self, result: IOResult) -> None:
        """A transfer into RAM is over; its errors are counted by whoever judges them."""
        self.num_bytes_read += result.num_bytes
        self.read_seconds += result.seconds
        self.read_latency.observe(result.seconds)

    def count_write(self, result: IOResult) -> None:
        """A transfer to the tier is over."""
        self.num_bytes_written += result.num_bytes
        self.write_seconds += result.seconds
        self.write_latency.observe(result.seconds)

    @contextmanager
    def stall(self) -> Iterator[None]:
        """The engine waits inside."""
        started = self.clock()
        try:
            yield
        finally:
            self.stall_seconds += self.clock() - started

    def snapshot(self, *, num_pauses: int) -> TransferStats:
        return TransferStats(
            num_bytes_read=self.num_bytes_read,
            read_seconds=self.read_seconds,
            num_bytes_written=self.num_bytes_written,
            write_seconds=self.write_seconds,
            num_blocks_written=self.num_blocks_written,
            stall_seconds=self.stall_seconds,
            num_checksum_failures=self.num_checksum_failures,
            num_read_errors=self.num_read_errors,
            num_write_errors=self.num_write_errors,
            num_pauses=num_pauses,
            read_latency=self.read_latency.snapshot(),
            write_latency=self.write_latency.snapshot(),
        )
