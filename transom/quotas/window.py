"""`SlidingWindow`: what was used within the last second, hour or day, and when there will be room for more.

Amounts are kept in buckets of a 120th of the window, and leave with the end of their bucket: an amount counts for at
least the window's length and at most a 120th longer. So no interval of the window's length ever holds more than the
limit, with one exception: an amount that is larger than the whole limit is let in when nothing else is there, and then
counts for longer, in proportion. Otherwise a request that asks for more than a second's tokens could never be served.

Knows no clock: every call is told the time, in seconds, which must not go backwards.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

NUM_BUCKETS = 120


@dataclass(slots=True)
class Bucket:
    """What was charged in one short span of time."""

    number: int
    """Its span, counted in bucket lengths since the epoch."""
    amount: int
    expires: float
    is_kept: bool = False
    """Written down, so that its corrections must be, too."""


class SlidingWindow:
    """One limit of one account. Amounts are whole numbers; `limit` need not be."""

    def __init__(self, limit: float, seconds: float) -> None:
        self.limit = limit
        self._seconds = seconds
        self._bucket_seconds = seconds / NUM_BUCKETS
        self._buckets: list[Bucket] = []

    def restore(self, buckets: Iterable[Bucket], now: float) -> None:
        """Takes over what another run charged. Whatever clock and limit that had, it is gone in time."""
        for bucket in sorted(buckets, key=lambda bucket: bucket.number):
            latest = now + self._bucket_seconds + self._lasts(bucket.amount)
            expires = min(bucket.expires, self._expiry(bucket), latest)
            number = min(bucket.number, self._number(now))
            if self._buckets and self._buckets[-1].number == number:
                self._buckets[-1].amount += bucket.amount
                self._buckets[-1].expires = max(self._buckets[-1].expires, expires)
            else:
                self._buckets.append(Bucket(number, bucket.amount, expires, is_kept=True))

    def used(self, now: float) -> int:
        """What counts at this moment, reservations included."""
        return sum(bucket.amount for bucket in self._counting(now))

    def wait(self, amount: int, now: float) -> float:
        """Seconds until `amount` fits if nothing else is charged meanwhile; 0: it fits now."""
        used = self.used(now)
        if self._fits(used, amount):
            return 0.0
        for bucket in sorted(self._counting(now), key=lambda bucket: bucket.expires):
            used -= bucket.amount
            if self._fits(used, amount):
                return bucket.expires - now
        raise AssertionError("an empty window holds any amount")

    def idle_in(self, now: float) -> float:
        """Seconds until everything is forgotten."""
        return max((bucket.expires for bucket in self._counting(now)), default=now) - now

    def charge(self, amount: int, now: float) -> Bucket:
        """Counts `amount` from now on. The bucket it is in, for `correct`."""
        self._buckets, number = self._counting(now), self._number(now)
        if not self._buckets or self._buckets[-1].number != number:
            self._buckets.append(Bucket(number, 0, 0.0))
        self._change(self._buckets[-1], amount)
        return self._buckets[-1]

    def correct(self, bucket: Bucket, difference: int) -> None:
        """Adds to (or takes from) what was charged; without effect once that is forgotten."""
        self._change(bucket, difference)

    def _change(self, bucket: Bucket, difference: int) -> None:
        bucket.amount = max(0, bucket.amount + difference)
        bucket.expires = self._expiry(bucket)

    def _expiry(self, bucket: Bucket) -> float:
        return (bucket.number + 1) * self._bucket_seconds + self._lasts(bucket.amount)

    def _lasts(self, amount: int) -> float:
        return self._seconds * max(1.0, amount / self.limit)

    def _number(self, now: float) -> int:
        return math.floor(now / self._bucket_seconds)

    def _fits(self, used: int, amount: int) -> bool:
        return used == 0 or used + amount <= self.limit

    def _counting(self, now: float) -> list[Bucket]:
        return [bucket for bucket in self._buckets if bucket.expires > now]
