"""How often, and how quickly, a worker that dies is started again. Owns the back-off; knows no process."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

DELAYS_SECONDS = (0.2, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Waiting times before the first, second, ... restart in a row; the last one is repeated."""
MAX_RESTARTS = 5
WINDOW_SECONDS = 600.0
"""More than MAX_RESTARTS within it are a crash loop."""
_HEALTHY_AFTER_SECONDS = 30.0
"""A worker that lived so long has paid for its restart: the next one is quick again."""


class RestartLimit:
    """The restarts of one engine. Times in seconds, of any clock that runs evenly."""

    def __init__(self, delays_seconds: Sequence[float] = DELAYS_SECONDS, max_restarts: int = MAX_RESTARTS) -> None:
        self._delays = tuple(delays_seconds)
        self._max_restarts = max_restarts
        self._times: deque[float] = deque(maxlen=max_restarts)
        self._num_in_a_row = 0

    def worker_lived(self, seconds: float) -> None:
        """A worker has died, so long after it was ready."""
        if seconds >= _HEALTHY_AFTER_SECONDS:
            self._num_in_a_row = 0

    def next_delay(self, now: float) -> float | None:
        """Seconds to wait before the next restart, which begins then; None: this is a crash loop."""
        if len(self._times) == self._max_restarts and now - self._times[0] < WINDOW_SECONDS:
            return None
        self._times.append(now)
        delay = self._delays[min(self._num_in_a_row, len(self._delays) - 1)]
        self._num_in_a_row += 1
        return delay

    @property
    def described(self) -> str:
        """The limit in words."""
        return f"{self._max_restarts} restarts within {WINDOW_SECONDS / 60:.0f} minutes did not help"
