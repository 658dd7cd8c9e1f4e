"""`WindowWatch`: looks into the engines while somebody watches, once for all watchers. Owns what was seen last, and how
fast things go. Knows no HTTP; lives in the event loop's thread.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from transom.engine import EngineView
from transom.errors import KeyQueueFullError, QueueFullError
from transom.registry import ServedModel
from transom.server.interruption import cancel

INTERVAL_SECONDS = 0.25
MAX_WATCHERS = 32
MAX_WATCHERS_PER_KEY = 8

_PACE_SECONDS = 2.0


class Pace:
    """How fast a counter grows, over the last two seconds and whatever lies before the first look in them."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, seconds: float, count: int) -> None:
        """The counter stood at `count` then; a counter that went back begins again."""
        if self._seen and count < self._seen[-1][1]:
            self._seen.clear()
        self._seen.append((seconds, count))
        while len(self._seen) > 2 and self._seen[1][0] <= seconds - _PACE_SECONDS:
            self._seen.popleft()

    @property
    def per_second(self) -> float | None:
        """None before the second look."""
        if len(self._seen) < 2:
            return None
        (first, count), (last, last_count) = self._seen[0], self._seen[-1]
        return (last_count - count) / (last - first) if last > first else None


@dataclass(slots=True)
class Sight:
    """What was seen of one model."""

    view: EngineView | None = None
    """None while there is no worker, and before the first look."""
    generated: Pace = field(default_factory=Pace)
    computed: Pace = field(default_factory=Pace)
    requests: dict[str, Pace] = field(default_factory=dict)
    """Computed tokens of each sequence that runs."""

    def see(self, view: EngineView | None, seconds: float) -> None:
        """Takes in one look."""
        self.view = view
        windows = () if view is None else view.windows
        if view is not None:
            self.generated.note(seconds, view.stats.scheduler.num_generated_tokens)
            self.computed.note(seconds, view.stats.scheduler.num_computed_tokens)
        paces = {each.stats.request_id: self.requests.get(each.stats.request_id) or Pace() for each in windows}
        for each in windows:
            paces[each.stats.request_id].note(seconds, each.stats.num_tokens)
        self.requests = paces


class WindowWatch:
    """Watches these models for a bounded number of watchers, and does nothing without one. `clock`: seconds."""

    def __init__(self, models: Iterable[ServedModel], clock: Callable[[], float] = time.monotonic) -> None:
        self._models = tuple(models)
        self._clock = clock
        self._sights = {served.id: Sight() for served in self._models}
        self._watchers: Counter[str] = Counter()
        self._following: asyncio.Task[None] | None = None
        self._round = asyncio.Event()

    def sight(self, served: ServedModel) -> Sight:
        """What was seen of a model the last time that somebody looked."""
        return self._sights[served.id]

    async def look(self) -> None:
        """Looks at every model once. Takes as long as the steps that their engines are in."""
        await asyncio.gather(*map(self._look, self._models))

    @asynccontextmanager
    async def watching(self, key: str) -> AsyncIterator[None]:
        """What `sight` says is kept fresh within; `until_seen` says when.

        Raises `KeyQueueFullError` and `QueueFullError` when too many watch already; "" is all who ask without a key.
        """
        if key and self._watchers[key] >= MAX_WATCHERS_PER_KEY:
            raise KeyQueueFullError(f"{MAX_WATCHERS_PER_KEY} clients watch with this key, which is the limit.")
        if self._watchers.total() >= MAX_WATCHERS:
            raise QueueFullError(f"{MAX_WATCHERS} clients watch, which is the limit.")
        self._watchers[key] += 1
        if self._following is None:
            self._sights = {served.id: Sight() for served in self._models}
            self._following = asyncio.create_task(self._follow())
        try:
            yield
        finally:
            self._watchers[key] -= 1
            if not self._watchers.total():
                await self._stop()

    async def until_seen(self) -> None:
        """Until the next round of looks is over."""
        await self._round.wait()

    async def _stop(self) -> None:
        assert self._following is not None
        following, self._following = self._following, None
        self._watchers.clear()
        await cancel(following)

    async def _follow(self) -> None:
        """Rounds of looks. An engine in a long step is not asked again before it has answered, and not waited for."""
        pending: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                for served in self._models:
                    if served.id not in pending:
                        pending[served.id] = asyncio.create_task(self._look(served))
                await asyncio.wait(pending.values(), timeout=INTERVAL_SECONDS)
                pending = {model: look for model, look in pending.items() if not look.done()}
                self._round.set()
                self._round = asyncio.Event()
                await asyncio.sleep(INTERVAL_SECONDS)
        finally:
            await cancel(*pending.values())

    async def _look(self, served: ServedModel) -> None:
        self._sights[served.id].see(await served.engine.look(), self._clock())
