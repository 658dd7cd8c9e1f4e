"""`LargeBodies`: how many large bodies are read and parsed at a time. Lives in the event loop's thread.

Each takes up to 10 MiB while it waits, and for a moment many times that while it is parsed; so there are few of them,
and one is parsed at a time. Whoever comes beyond that is refused before the body is taken.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from transom.errors import KeyQueueFullError, QueueFullError

LARGE_BODY_BYTES = 64 * 2**10
MAX_LARGE_BODIES = 32
MAX_LARGE_BODIES_PER_KEY = 16


class LargeBodies:
    """Of one server."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        """Whose turn it is to be parsed."""
        self._num_bodies: Counter[str] = Counter()

    @contextmanager
    def one(self, key: str) -> Iterator[None]:
        """One more, of this key, as long as the block runs; "" stands for all callers where no key is asked for.

        Raises `KeyQueueFullError` and `QueueFullError`.
        """
        if key and self._num_bodies[key] >= MAX_LARGE_BODIES_PER_KEY:
            raise KeyQueueFullError(f"{MAX_LARGE_BODIES_PER_KEY} large bodies of this key are being read already.")
        if self._num_bodies.total() >= MAX_LARGE_BODIES:
            raise QueueFullError(f"{MAX_LARGE_BODIES} large bodies are being read already.")
        self._num_bodies[key] += 1
        try:
            yield
        finally:
            self._num_bodies[key] -= 1
            if not self._num_bodies[key]:
                del self._num_bodies[key]
