"""Several streams as one, in order of arrival: the choices of one answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import TypeVar

from transom.server.interruption import cancel

Item = TypeVar("Item")
_MAX_BUFFERED = 16


async def merge(streams: Sequence[AsyncGenerator[Item, None]]) -> AsyncGenerator[tuple[int, Item], None]:
    """(index of the stream, item) until all have ended. The first error ends all of them; so does closing this generator."""
    if len(streams) == 1:
        async with aclosing(streams[0]) as only:
            async for item in only:
                yield 0, item
        return
    async for pair in _merge_many(streams):
        yield pair


async def _merge_many(streams: Sequence[AsyncGenerator[Item, None]]) -> AsyncIterator[tuple[int, Item]]:
    queue: asyncio.Queue[tuple[int, Item] | Exception | None] = asyncio.Queue(_MAX_BUFFERED)
    pumps = [asyncio.create_task(_pump(index, stream, queue)) for index, stream in enumerate(streams)]
    try:
        running = len(pumps)
        while running:
            match await queue.get():
                case None:
                    running -= 1
                case Exception() as error:
                    raise error
                case pair:
                    yield pair
    finally:
        await cancel(*pumps)


async def _pump(
    index: int, stream: AsyncGenerator[Item, None], queue: asyncio.Queue[tuple[int, Item] | Exception | None]
) -> None:
    try:
        async with aclosing(stream):
            async for item in stream:
                await queue.put((index, item))
    except Exception as error:  # noqa: BLE001 - crosses to the consumer, who raises it
        await queue.put(error)
    else:
        await queue.put(None)
