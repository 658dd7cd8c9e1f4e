"""The server's own state between start and end: serving, draining, cut. Knows no socket and no signal."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from transom.errors import DrainingError


class Lifecycle:
    """Counts the running answers and tells them when their time is over. Lives in the event loop's thread."""

    def __init__(self) -> None:
        self.draining = False
        self.cut = asyncio.Event()
        """Set when draining has lasted long enough: whatever still runs ends with an error."""
        self.num_running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def answering(self) -> Iterator[None]:
        """One answer in progress. Raises `DrainingError` when no new one may begin."""
        self.check()
        self.num_running += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.num_running -= 1
            if self.num_running == 0:
                self._idle.set()

    def check(self) -> None:
        """Raises `DrainingError` when no new answer may begin."""
        if self.draining:
            raise DrainingError("The server is shutting down.", retry_after_seconds=5.0)

    async def drain(self, timeout_seconds: float) -> None:
        """Takes no new answers, waits for the running ones, and cuts those that outlast the limit."""
        self.draining = True
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._idle.wait()
        except TimeoutError:
            self.cut.set()
