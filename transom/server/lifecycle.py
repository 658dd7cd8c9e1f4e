"""The server's own state between start and end: serving, draining, cut. Knows no socket and no signal."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from transom.errors import DrainingError


class Lifecycle:
    """Counts the running answers and tells them when their time is over. Lives in the event loop's thread."""

    def __init__(self) -> None:
        self._draining = asyncio.Event()
        self.cut = asyncio.Event()
        """Set when draining has lasted long enough: whatever still runs ends with an error."""
        self.num_running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def draining(self) -> bool:
        """The end has begun."""
        return self._draining.is_set()

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

    def begin_draining(self) -> None:
        """From now on nothing new is taken."""
        self._draining.set()

    async def until_draining(self) -> None:
        """Waits for the beginning of the end."""
        await self._draining.wait()

    async def drain(self, timeout_seconds: float) -> None:
        """Takes no new answers, waits for the running ones, and cuts those that outlast the limit."""
        self.begin_draining()
        waits = [asyncio.create_task(event.wait()) for event in (self._idle, self.cut)]
        try:
            done, _ = await asyncio.wait(waits, timeout=timeout_seconds, return_when="FIRST_COMPLETED")
        finally:
            for task in waits:
                task.cancel()
        if not done:
            self.cut.set()
