"""Is a worker alive? `Watchdog` judges its signs of life; `start_beating` is the worker's side of them.

A step of a large model may be silent for minutes, so messages prove nothing by their absence. A thread of the worker
therefore beats once a second and tells the processor time that the process has used. A process that is stopped does not
beat. One that beats, has work, and neither sends anything nor uses processor time for long is stuck; a step that
computes uses processor time, and one that waits for a disk gives up after 30 seconds.
"""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

BEAT_SECONDS = 1.0
BEAT = struct.Struct("<d")
"""What is written for each beat: seconds of processor time, of all threads together."""

_LONGEST_TICK_SECONDS = 2.0
"""More time between two looks means that this process was stopped or blocked, which says nothing of the worker."""
_PROCESSOR_SECONDS = 0.1
"""Less than so much processor time is what the beats themselves take."""


@dataclass(frozen=True, slots=True)
class WatchLimits:
    """After how many seconds a worker is given up."""

    silent: float = 7.0
    """Without a beat."""
    silent_loading: float = 60.0
    """The same while the model is loaded: pages of a mapped file may come from a slow disk."""
    stuck: float = 300.0
    """With work, and neither a message nor processor time used."""


class Watchdog:
    """Judges one worker. No thread, no I/O; `clock` gives seconds."""

    def __init__(self, limits: WatchLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._looked_at = clock()
        self._silent = 0.0
        self._stuck = 0.0
        self._processor_seconds = 0.0
        self._is_loaded = False

    def take_beat(self, processor_seconds: float) -> None:
        """The worker beats, and has used so much processor time."""
        self._silent = 0.0
        if processor_seconds - self._processor_seconds >= _PROCESSOR_SECONDS:
            self._processor_seconds = processor_seconds
            self._stuck = 0.0

    def take_message(self) -> None:
        """The worker has said something: it is between two steps."""
        self._stuck = 0.0

    def take_ready(self) -> None:
        """The model is loaded."""
        self._is_loaded = True

    def complaint(self, *, has_work: bool) -> str | None:
        """Why the worker must be given up, in words; None when all is well. To be asked about once a second."""
        now = self._clock()
        elapsed, self._looked_at = min(now - self._looked_at, _LONGEST_TICK_SECONDS), now
        self._silent += elapsed
        self._stuck = self._stuck + elapsed if has_work else 0.0
        if self._silent >= (self._limits.silent if self._is_loaded else self._limits.silent_loading):
            return f"it gave no sign of life for {self._silent:.0f} seconds"
        if self._stuck >= self._limits.stuck:
            return f"it was stuck for {self._stuck:.0f} seconds"
        return None


def start_beating(pipe: int) -> None:
    """Starts the worker's thread that beats, as long as the process lives and somebody can read."""
    os.set_blocking(pipe, False)
    threading.Thread(target=_beat_for_ever, args=(pipe,), name="heartbeat", daemon=True).start()


def _beat_for_ever(pipe: int) -> None:
    while True:
        try:
            os.write(pipe, BEAT.pack(time.process_time()))
        except BlockingIOError:
            pass  # the reader is behind; it will find beats enough
        except OSError:
            return
        time.sleep(BEAT_SECONDS)
