"""`StepCosts`: what a decode step with drafts takes beside one without.

Measured, for it differs with processor, types of weights and length of context; forgotten after a while, for all of
these change. Knows no clock and no sequence.
"""

from __future__ import annotations

import itertools
import statistics
from collections import deque
from dataclasses import dataclass, field

_NUM_REMEMBERED = 5
"""Measurements of a kind, of which the median counts: a step that was disturbed decides nothing."""
_MAX_AGE = 256
"""Steps after which a measurement is forgotten, and has to be made again."""
_MAX_DRAFTED_STEPS = 128
"""After so many steps with drafts comes one without, to know what these are compared with; sooner at first."""
_FIRST_DRAFTED_STEPS = 8
_GUESSED_ROW = 0.1
"""What a row is expected to add to a plain step before anybody has measured it. Low: what is tried is known then."""

_SHORTEST_STEP = 1e-9
"""Seconds: clocks may stand still in tests."""


@dataclass(slots=True)
class _Measured:
    """Times of a step with drafts, in plain steps."""

    ratios: deque[float] = field(default_factory=lambda: deque(maxlen=_NUM_REMEMBERED))
    num_seen: int = 0
    """How many steps had been measured when the last of them was."""


@dataclass(slots=True)
class _Curve:
    """What was measured with one number of sequences."""

    plain_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_NUM_REMEMBERED))
    num_since_plain: int = 0
    num_seen: int = 0
    by_rows: dict[int, _Measured] = field(default_factory=dict)

    def ratio(self, num_rows: int) -> float | None:
        """What a step of so many rows takes, in plain steps; None when that is not known, or not any more."""
        measured = self.by_rows.get(num_rows)
        if measured is None or self.num_seen - measured.num_seen > _MAX_AGE:
            return None
        return max(1.0, statistics.median_low(measured.ratios))

    def note(self, num_rows: int, seconds: float) -> None:
        if self.ratio(num_rows) is None:
            self.by_rows[num_rows] = _Measured()
        measured = self.by_rows[num_rows]
        measured.ratios.append(seconds / max(_SHORTEST_STEP, statistics.median_low(self.plain_seconds)))
        measured.num_seen = self.num_seen
        self.num_since_plain += 1


class StepCosts:
    """Seconds of decode steps, by the number of their sequences and rows."""

    def __init__(self) -> None:
        self._curves: dict[int, _Curve] = {}

    def note(self, num_sequences: int, num_rows: int, seconds: float) -> None:
        """A step took so long that computed one row of each sequence, and `num_rows - num_sequences` drafted ones."""
        curve = self._curves.setdefault(num_sequences, _Curve())
        curve.num_seen += 1
        if num_rows == num_sequences:
            curve.plain_seconds.append(seconds)
            curve.num_since_plain = 0
        elif curve.plain_seconds:
            curve.note(num_rows, seconds)

    def wants_plain_step(self, num_sequences: int) -> bool:
        """Whether a step without drafts is due, so that the others can be compared with it."""
        curve = self._curves.get(num_sequences)
        if curve is None or not curve.plain_seconds:
            return True
        return curve.num_since_plain >= min(_MAX_DRAFTED_STEPS, _FIRST_DRAFTED_STEPS << len(curve.plain_seconds))

    def ratios(self, num_sequences: int, max_num_drafted: int) -> list[float]:
        """By the number of drafted rows, 0 .. `max_num_drafted`: what a step takes beside a plain one, 1 or more.

        Between two numbers of rows that were measured it is taken to grow evenly; beyond them, by what is guessed.
        Fewer rows never take longer: where they did, something disturbed them.
        """
        curve = self._curves.get(num_sequences, _Curve())
        known: list[tuple[int, float]] = []
        for num_drafted in range(max_num_drafted, 0, -1):
            ratio = curve.ratio(num_sequences + num_drafted)
            if ratio is not None:
                known.append((num_drafted, min(ratio, known[-1][1] if known else ratio)))
        known = [(0, 1.0), *reversed(known)]
        ratios = [1.0]
        for (first, low), (last, high) in itertools.pairwise(known):
            ratios += [low + (high - low) * step / (last - first) for step in range(1, last - first + 1)]
        return ratios + [ratios[-1] + _GUESSED_ROW * step for step in range(1, max_num_drafted + 2 - len(ratios))]
