"""Is a worker alive? `Watchdog` judges its signs of life; `start_beating` is the worker's side of them.

A step of a large model may be silent for minutes, so messages prove nothing by their absence. A thread of the worker
therefore beats once a second, and the processor time of the process is read from outside. A process that is stopped
does neither beat nor use any. One that computes without letting its thread beat gets a minute. One that beats, has
work, and neither sends anything nor uses processor time for long is stuck; a step that computes uses processor time,
and one that waits for a disk gives up after 30 seconds.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

BEAT_SECONDS = 1.0
_BEAT = b"."

_LONGEST_TICK_SECONDS = 2.0
"""More time between two looks means that this process was stopped or blocked, which says nothing of the worker."""
_PROCESSOR_SECONDS = 0.1
"""Less than so much processor time is what the beats themselves take."""


@dataclass(frozen=True, slots=True)
class WatchLimits:
    """After how many seconds a worker is given up."""

    silent: float = 7.0
    """Without a beat, and without using the processor."""
    silent_at_work: float = 60.0
    """Without a beat, whatever it does."""
    silent_loading: float = 60.0
    """The first of these while the model is loaded: pages of a mapped file may come from a slow disk."""
    stuck: float = 300.0
    """With work, and neither a message nor processor time used."""


class Watchdog:
    """Judges one worker. No thread, no I/O; `clock` gives seconds."""

    def __init__(self, limits: WatchLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._looked_at = clock()
        self._silent = 0.0
        self._motionless = 0.0
        self._stuck = 0.0
        self._processor_seconds = 0.0
        self._working_processor_seconds = 0.0
        self._is_loaded = False

    def take_beat(self) -> None:
        """The worker beats."""
        self._silent = 0.0

    def take_message(self) -> None:
        """The worker has said something: it is between two steps."""
        self._stuck = 0.0

    def take_ready(self) -> None:
        """The model is loaded."""
        self._is_loaded = True

    def complaint(self, *, has_work: bool, processor_seconds: float) -> str | None:
        """Why the worker must be given up, in words; None when all is well. To be asked about once a second.

        `processor_seconds`: what the worker's process has used in its life.
        """
        now = self._clock()
        elapsed, self._looked_at = min(now - self._looked_at, _LONGEST_TICK_SECONDS), now
        self._silent += elapsed
        self._motionless += elapsed
        self._stuck = self._stuck + elapsed if has_work else 0.0
        self._take_processor_seconds(processor_seconds)
        limit = self._limits.silent if self._is_loaded else self._limits.silent_loading
        if min(self._silent, self._motionless) >= limit or self._silent >= self._limits.silent_at_work:
            return f"it gave no sign of life for {self._silent:.0f} seconds"
        if self._stuck >= self._limits.stuck:
            return f"it was stuck for {self._stuck:.0f} seconds"
        return None

    def _take_processor_seconds(self, seconds: float) -> None:
        """Any use is motion; as work counts what the beats alone would not take."""
        if seconds > self._processor_seconds:
            self._processor_seconds = seconds
            self._motionless = 0.0
        if seconds - self._working_processor_seconds >= _PROCESSOR_SECONDS:
            self._working_processor_seconds = seconds
            self._stuck = 0.0


def start_beating(pipe: int) -> None:
    """Starts the worker's thread that beats, as long as the process lives and somebody can read."""
    os.set_blocking(pipe, False)
    threading.Thread(target=_beat_for_ever, args=(pipe,), name="heartbeat", daemon=True).start()


def _beat_for_ever(pipe: int) -> None:
    while True:
        try:
            os.write(pipe, _BEAT)
        except BlockingIOError:
            pass  # the reader is behind; it will find beats enough
        except OSError:
            return
        time.sleep(BEAT_SECONDS)
