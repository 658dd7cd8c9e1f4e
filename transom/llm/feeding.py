"""The sequences of one caller, fed to the engine a few at a time. Knows no engine: works on streams of deltas."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from transom.errors import QueueFullError
from transom.llm.generation_request import GenerationRequest, TextDelta

Generate = Callable[[GenerationRequest], AsyncGenerator[TextDelta]]


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one caller may have in the engine at a time. A single sequence may be of any size."""

    max_sequences: int
    max_tokens: int
    """Sum of `Request.size_in_tokens`."""


async def feed(
    generate: Generate, requests: Sequence[GenerationRequest], allowance: Allowance
) -> AsyncGenerator[tuple[int, TextDelta]]:
    """(index of the request, delta) as they come. Requests are begun in order, as the allowance has room for them.

    A full queue is an error only before the first delta; later it is waited out, for then work would be lost. An error
    in one sequence, or closing this generator, closes all that were begun; what was not begun never will be.
    """
    feeder = _Feeder(generate, requests, allowance)
    try:
        while feeder.begin_what_fits():
            for index, delta in await feeder.next_deltas():
                yield index, delta
    finally:
        await feeder.close()


class _Feeder:
    """Which requests wait here, and which ones are in the engine."""

    def __init__(self, generate: Generate, requests: Sequence[GenerationRequest], allowance: Allowance) -> None:
        self._generate = generate
        self._requests = requests
        self._allowance = allowance
        self._waiting = deque(range(len(requests)))
        self._begun: dict[int, AsyncGenerator[TextDelta]] = {}
        self._upcoming: dict[asyncio.Task[TextDelta | None], int] = {}
        self._has_heard = False

    def begin_what_fits(self) -> bool:
        """Begins the next requests that the allowance has room for; False when all are at their end."""
        while self._waiting and self._has_room(self._size(self._waiting[0])):
            index = self._waiting.popleft()
            self._begun[index] = self._persistent(self._requests[index])
            self._ask(index)
        return bool(self._begun)

    async def next_deltas(self) -> list[tuple[int, TextDelta]]:
        """Waits for a delta; all that are there then, by index. Raises the error of the first sequence that has one."""
        done, _ = await asyncio.wait(self._upcoming, return_when=asyncio.FIRST_COMPLETED)
        deltas = []
        for task in sorted(done, key=self._upcoming.__getitem__):
            index = self._upcoming.pop(task)
            delta = task.result()
            if delta is None:
                del self._begun[index]
            else:
                self._has_heard = True
                self._ask(index)
                deltas.append((index, delta))
        return deltas

    async def close(self) -> None:
        """Ends whatever is in the engine."""
        for task in self._upcoming:
            task.cancel()
        await asyncio.gather(*self._upcoming, return_exceptions=True)
        self._upcoming.clear()  # cancelled tasks know the frames that know this object: prompts would stay in memory
        for stream in self._begun.values():
            await stream.aclose()

    def _has_room(self, size: int) -> bool:
        if not self._begun:
            return True
        num_tokens = size + sum(map(self._size, self._begun))
        return len(self._begun) < self._allowance.max_sequences and num_tokens <= self._allowance.max_tokens

    def _size(self, index: int) -> int:
        return self._requests[index].request.size_in_tokens

    def _ask(self, index: int) -> None:
        self._upcoming[asyncio.create_task(_next(self._begun[index]))] = index

    async def _persistent(self, request: GenerationRequest) -> AsyncGenerator[TextDelta]:
        """The deltas of one sequence. A refusal comes before its first delta, so it can be asked for again."""
        while True:
            try:
                async with aclosing(self._generate(request)) as deltas:
                    async for delta in deltas:
                        yield delta
                return
            except QueueFullError as error:
                if not self._has_heard:
                    raise
                await asyncio.sleep(error.retry_after_seconds)


async def _next(stream: AsyncGenerator[TextDelta]) -> TextDelta | None:
    return await anext(stream, None)
