"""Time as tests have it."""

from __future__ import annotations


class Clock:
    """Stands still until it is moved."""

    def __init__(self, seconds: float = 1_700_000_000.0) -> None:
        self.seconds = seconds

    def __call__(self) -> float:
        return self.seconds
