"""What has arrived for one request and was not taken yet. Bounded by merging; never makes the sender wait."""

from __future__ import annotations

import asyncio

from transom.engine.merging import merge
from transom.errors import TransomError
from transom.request import RequestOutput


class Mailbox:
    """One sender and one reader in the same event loop."""

    def __init__(self) -> None:
        self._output: RequestOutput | None = None
        self._error: TransomError | None = None
        self._arrived = asyncio.Event()

    def put(self, output: RequestOutput) -> None:
        """Adds to what waits for the reader."""
        self._output = output if self._output is None else merge(self._output, output)
        self._arrived.set()

    def fail(self, error: TransomError) -> None:
        """Ends the request; the reader still gets what arrived before."""
        self._error = error
        self._arrived.set()

    async def take(self) -> RequestOutput:
        """Everything that has arrived, as one output; waits for something. Raises the error of `fail`."""
        await self._arrived.wait()
        if self._output is not None:
            output, self._output = self._output, None
            if self._error is None:
                self._arrived.clear()
            return output
        assert self._error is not None
        raise self._error
