"""`Turns`: who may go to a model's engine next. A bounded queue for each key; they are served in turn.

The engine's own queue is kept short: it is served in order of arrival, whoever asks. So a sequence goes there only when
there is about to be room for it; until then it waits here, where the next turn is that of the key that was served
longest ago. Knows no HTTP; lives in the event loop's thread.
"""

from __future__ import annotations

import asyncio
import time
from bisect import insort
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from operator import attrgetter

from transom.errors import KeyQueueFullError, QueueFullError
from transom.llm import GenerationRequest, TextDelta

MAX_NOT_STARTED = 8
"""So many sequences may be in the engine without an output yet. Fewer would leave room in its steps unused, for each of
them starts several; of more, one key alone could fill what the next key has to wait for."""

_BY_PRIORITY = attrgetter("priority")

Generate = Callable[[GenerationRequest], AsyncGenerator[TextDelta]]


@dataclass(frozen=True, slots=True)
class TurnLimits:
    """Bounds of one model."""

    max_running: int
    """Sequences that the engine computes at a time."""
    max_waiting: int
    """Answers that may wait for their first turn ..."""
    max_waiting_per_key: int
    """... those of one key ..."""
    max_waiting_tokens: int
    """... and sizes of all waiting sequences together (`Request.size_in_tokens`); a single one may have any size."""


class Place:
    """An answer that waits for its first turn. `leave` it then, or when the answer ends before; idempotent."""

    def __init__(self, counter: Counter[str], key: str) -> None:
        self._counter = counter
        self._key: str | None = key

    def leave(self) -> None:
        """The answer waits no longer."""
        if self._key is not None:
            self._counter[self._key] -= 1
            if not self._counter[self._key]:
                del self._counter[self._key]
            self._key = None


@dataclass(slots=True, eq=False)
class _Waiter:
    key: str
    size: int
    priority: int
    has_turn: asyncio.Event = field(default_factory=asyncio.Event)


class Turns:
    """The turns of one model."""

    def __init__(self, limits: TurnLimits) -> None:
        self._limits = limits
        self._answers: Counter[str] = Counter()
        self._queues: dict[str, list[_Waiter]] = {}
        """By key, in the order of turns; each by priority and arrival, none is empty."""
        self._num_waiting_tokens = 0
        self._num_running = 0
        self._num_not_started = 0

    @property
    def num_waiting(self) -> int:
        """Sequences that wait for their turn."""
        return sum(map(len, self._queues.values()))

    def arrive(self, key: str) -> Place:
        """A place for one more answer of this key; "" stands for all callers where no key is asked for, who have no
        bound of their own. Raises `KeyQueueFullError` and `QueueFullError`."""
        self.check(key)
        self._answers[key] += 1
        return Place(self._answers, key)

    def check(self, key: str) -> None:
        """Raises as `arrive` would."""
        if key and self._answers[key] >= self._limits.max_waiting_per_key:
            raise KeyQueueFullError(f"{self._answers[key]} requests of this key are waiting, which is the limit.")
        if self._answers.total() >= self._limits.max_waiting:
            raise QueueFullError(f"{self._answers.total()} requests are waiting, which is the limit.")

    async def generate(
        self, key: str, place: Place, request: GenerationRequest, generate: Generate
    ) -> AsyncGenerator[TextDelta]:
        """The deltas of `generate(request)`, when the key's turn has come. Raises `QueueFullError` at once."""
        waiter = _Waiter(key, request.request.size_in_tokens, request.request.priority)
        has_started = False
        self._enter(waiter)
        arrived = time.perf_counter()
        try:
            await waiter.has_turn.wait()
            place.leave()
            waited = time.perf_counter() - arrived
            async with aclosing(generate(request)) as deltas:
                async for delta in deltas:
                    if not has_started:
                        has_started = True
                        self._num_not_started -= 1
                        self._give_turns()
                    if delta.queue_seconds is not None:
                        delta = replace(delta, queue_seconds=delta.queue_seconds + waited)
                    yield delta
        finally:
            self._end(waiter, has_started=has_started)

    def _enter(self, waiter: _Waiter) -> None:
        if self._num_waiting_tokens and self._num_waiting_tokens + waiter.size > self._limits.max_waiting_tokens:
            raise QueueFullError("Too many tokens are waiting.")
        self._num_waiting_tokens += waiter.size
        insort(self._queues.setdefault(waiter.key, []), waiter, key=_BY_PRIORITY)
        self._give_turns()

    def _end(self, waiter: _Waiter, *, has_started: bool) -> None:
        if waiter.has_turn.is_set():
            self._num_running -= 1
            self._num_not_started -= not has_started
        else:
            self._remove(waiter)
        self._give_turns()

    def _give_turns(self) -> None:
        while self._queues and self._has_room():
            key = next(iter(self._queues))
            waiter = self._queues[key][0]
            self._remove(waiter)
            if key in self._queues:
                self._queues[key] = self._queues.pop(key)  # to the end
            self._num_running += 1
            self._num_not_started += 1
            waiter.has_turn.set()

    def _has_room(self) -> bool:
        limit = self._limits.max_running + MAX_NOT_STARTED
        return self._num_running < limit and self._num_not_started < MAX_NOT_STARTED

    def _remove(self, waiter: _Waiter) -> None:
        queue = self._queues[waiter.key]
        queue.remove(waiter)
        self._num_waiting_tokens -= waiter.size
        if not queue:
            del self._queues[waiter.key]
