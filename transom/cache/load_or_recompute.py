"""Whether KV on SSD is worth reading, or sooner computed again. Owns two rates, both measured while serving.

Reading must be clearly the faster way: rates change, and what is computed again lies in RAM. As long as a rate is not
known, what is there is used. Knows no block and no sequence; the clock is given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

READING_SHARE = 0.8
"""Reading may take so much of the time that computing takes."""

_MEMORY = 0.7
"""What earlier measurements weigh when another one of equal length is made."""

_MIN_PASS_TOKENS = 32
"""Shorter passes say little of how fast prompts are computed."""


@dataclass(slots=True)
class MeasuredRate:
    """Units per second, the latest measurements weighing most."""

    units: float = 0.0
    seconds: float = 0.0

    def add(self, units: float, seconds: float) -> None:
        """Something took so long."""
        self.units = _MEMORY * self.units + units
        self.seconds = _MEMORY * self.seconds + seconds

    @property
    def per_second(self) -> float | None:
        """None: nothing was measured."""
        return self.units / self.seconds if self.units > 0 and self.seconds > 0 else None


class LoadOrRecompute:
    """Measures passes over prompts and reads of the cold tier, and compares.

    `read_totals` tells bytes and seconds of all reads so far.
    """

    def __init__(self, clock: Callable[[], float], read_totals: Callable[[], tuple[int, float]]) -> None:
        self._clock = clock
        self._read_totals = read_totals
        self._seen_bytes, self._seen_seconds = read_totals()
        self._reading = MeasuredRate()
        self._computing = MeasuredRate()
        self._pass_tokens = 0
        self._pass_started = 0.0

    def begin_pass(self, num_tokens: int) -> None:
        """A pass begins that computes so many tokens and reads nothing from the cold tier."""
        self._pass_tokens = num_tokens if num_tokens >= _MIN_PASS_TOKENS else 0
        if self._pass_tokens:
            self._pass_started = self._clock()

    def end_pass(self) -> None:
        """It is over; nothing happens if none was begun."""
        if self._pass_tokens:
            self._computing.add(self._pass_tokens, self._clock() - self._pass_started)
            self._pass_tokens = 0

    def is_worth_reading(self, num_bytes: int, num_tokens: int) -> bool:
        """Whether so many bytes of the cold tier are read faster than the tokens they save are computed."""
        self._take_in_reads()
        reading, computing = self._reading.per_second, self._computing.per_second
        if reading is None or computing is None:
            return True
        return num_bytes / reading <= READING_SHARE * num_tokens / computing

    def _take_in_reads(self) -> None:
        num_bytes, seconds = self._read_totals()
        if num_bytes > self._seen_bytes:
            self._reading.add(num_bytes - self._seen_bytes, seconds - self._seen_seconds)
            self._seen_bytes, self._seen_seconds = num_bytes, seconds
