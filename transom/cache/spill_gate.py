"""`SpillGate`: whether blocks may be written to the cold tier at the moment. Owns the memory of recent errors.

A full disk stops spilling for half a minute, or until it takes back bytes of ours; a broken one for five minutes. One
that hangs is tried again after half a minute or as soon as it goes on, and is called broken the third time. Serving
goes on in all cases, with what is there.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable

from transom.cache.stats import TierState

FULL_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
FULL_DISK_SECONDS = 30.0

MAX_ERRORS = 3
ERROR_WINDOW_SECONDS = 10.0
BROKEN_DISK_SECONDS = 300.0


class SpillGate:
    """Closed by errors, opened by time. `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._closed_until = clock()
        self._reason = TierState.PAUSED
        self._errors: deque[float] = deque(maxlen=MAX_ERRORS)
        self._has_room_again = False
        self._num_hangs = 0  # without an end between them
        self._closed_by_hang = False
        self.num_closed = 0
        """How often it was closed."""

    @property
    def state(self) -> TierState:
        return self._reason if self._clock() < self._closed_until else TierState.ON

    @property
    def is_open(self) -> bool:
        """Whether a write may be tried: also where `state` is still PAUSED and a full disk has room of ours again."""
        return self.state is TierState.ON or (self.state is TierState.PAUSED and self._has_room_again)

    def note_room(self) -> None:
        """Bytes of ours are no longer needed on the disk: others can be written instead."""
        self._has_room_again = True

    def note(self, error: int) -> None:
        """Something failed, with this errno or kernels' negative code."""
        now = self._clock()
        if error in FULL_DISK_ERRORS:
            self._close(now + FULL_DISK_SECONDS, TierState.PAUSED)
            self._has_room_again = False
            return
        self._errors.append(now)
        if len(self._errors) == MAX_ERRORS and now - self._errors[0] <= ERROR_WINDOW_SECONDS:
            self._close(now + BROKEN_DISK_SECONDS, TierState.OFF)

    def note_late(self) -> None:
        """A transfer was given up, because it takes too long."""
        if not self.is_open:  # another one of the same hang
            return
        self._num_hangs += 1
        if self._num_hangs < MAX_ERRORS:
            self._close(self._clock() + FULL_DISK_SECONDS, TierState.PAUSED)
        else:
            self._close(self._clock() + BROKEN_DISK_SECONDS, TierState.OFF)
        self._has_room_again = False
        self._closed_by_hang = True

    def note_in_time(self) -> None:
        """The transfers that were given up are over at last."""
        self._num_hangs = 0
        if self._closed_by_hang:
            self._closed_until = self._clock()

    def _close(self, until: float, reason: TierState) -> None:
        if self.is_open:
            self.num_closed += 1
        if until > self._closed_until:
            self._closed_until, self._reason = until, reason
            self._closed_by_hang = False
