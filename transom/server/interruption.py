"""What may end an answer before its time: the client goes away, the server has drained long enough, or its deadline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from transom.errors import DrainingError
from transom.server.errors import HttpError
from transom.server.lifecycle import Lifecycle

Result = TypeVar("Result")


class Interruption:
    """Waits for work together with everything that may interrupt it."""

    def __init__(self, gone: asyncio.Task[None], cut: asyncio.Task[Any], limit_seconds: float | None) -> None:
        self._gone = gone
        self._cut = cut
        self._limit_seconds = limit_seconds
        self._began = asyncio.get_running_loop().time()

    async def wait(self, work: asyncio.Future[Any], timeout: float | None = None) -> bool:  # noqa: ASYNC109
        """True when `work` is done, False after `timeout` seconds.

        Raises `ClientDisconnect`, `DrainingError` or `HttpError` (408) when that comes first; `work` goes on then.
        """
        left = self._seconds_left()
        patience = min((each for each in (timeout, left) if each is not None), default=None)
        done, _ = await asyncio.wait({work, self._gone, self._cut}, timeout=patience, return_when="FIRST_COMPLETED")
        if work in done:
            return True
        if self._gone in done:
            raise ClientDisconnect
        if self._cut in done:
            raise DrainingError("The server shut down before the answer was complete.", retry_after_seconds=5.0)
        if self._seconds_left() == 0:
            message = f"The answer was not complete within {self._limit_seconds:g} seconds, the limit of this server."
            raise HttpError(408, message, "timeout", type="timeout_error")
        return False

    def _seconds_left(self) -> float | None:
        """Until the deadline; None where there is none."""
        if self._limit_seconds is None:
            return None
        return max(0.0, self._began + self._limit_seconds - asyncio.get_running_loop().time())


@asynccontextmanager
async def watch(
    receive: Receive, lifecycle: Lifecycle, limit_seconds: float | None = None
) -> AsyncIterator[Interruption]:
    """An `Interruption` for the answer to the request whose body was read from `receive`, which may take so long."""
    gone = asyncio.create_task(_until_gone(receive))
    cut = asyncio.create_task(lifecycle.cut.wait())
    try:
        yield Interruption(gone, cut, limit_seconds)
    finally:
        await cancel(gone, cut)


async def run_watched(
    work: Coroutine[Any, Any, Result], receive: Receive, lifecycle: Lifecycle, limit_seconds: float | None = None
) -> Result:
    """The result of `work`, which is cancelled when an interruption comes first."""
    task = asyncio.create_task(work)
    try:
        async with watch(receive, lifecycle, limit_seconds) as interruption:
            await interruption.wait(task)
        return await task
    finally:
        await cancel(task)


async def cancel(*tasks: asyncio.Future[Any]) -> None:
    """Cancels what still runs and waits until it is over, so that nothing outlives the answer."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
