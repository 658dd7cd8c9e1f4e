"""`Account`: what one key has used of one quota. Plain counting; knows no store and no clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from transom.config.registry_config import ResourceQuota
from transom.quotas.kv_share import KVDemand, KVShares
from transom.quotas.limits import CONCURRENCY, KINDS, TOKENS, LimitKind
from transom.quotas.window import Bucket, SlidingWindow
from transom.request import KVBytes

RUNNING_RETRY_SECONDS = 1.0
"""When a running request ends is not known."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a request takes."""

    num_tokens: int
    num_requests: int = 1
    model: str = ""
    kv: KVDemand | None = None
    """None: its sizes are nobody's business."""

    def of(self, kind: LimitKind) -> int:
        """In the unit of a limit."""
        return self.num_tokens if kind.quantity == TOKENS else self.num_requests


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a cost does not fit."""

    limit: str
    """The field of `ResourceQuota`."""
    scope: str
    most: float
    used: int
    asked: int
    wait_seconds: float
    is_daily: bool = False


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is left of one window."""

    quantity: str
    limit: float
    remaining: int
    idle_in_seconds: float | None
    """Until all of it is there again; None: when what runs is over."""


@dataclass(frozen=True, slots=True)
class Use:
    """What a key has used of one limit."""

    caller: str
    scope: str
    limit: str
    used: int
    most: float
    idle_in_seconds: float | None
    """None: when what runs is over."""
    model: str | None = None
    """Of a share of KV: whose KV. In bytes, then."""


class Account:
    """The windows of one key and scope. `note` is told every bucket that changes, for whoever keeps them."""

    def __init__(
        self, caller: str, scope: str, quota: ResourceQuota, note: Callable[[str, str, LimitKind, Bucket], None]
    ) -> None:
        self._caller = caller
        self._scope = scope
        self._note = note
        self._max_concurrent = quota.max_concurrent_requests
        self._windows = {
            kind: SlidingWindow(limit, kind.seconds)
            for kind in KINDS
            if (limit := getattr(quota, kind.name)) is not None
        }
        self.num_running = 0
        self.kv_shares = KVShares(quota)

    def restore(self, kind: LimitKind, buckets: list[Bucket], now: float) -> None:
        """Takes over what another run charged; without effect where there is no such limit (any more)."""
        if kind in self._windows:
            self._windows[kind].restore(buckets, now)

    def refusals(self, cost: Cost, now: float) -> Iterator[Refusal]:
        """Every limit that `cost` would break now."""
        most = self._max_concurrent
        if most is not None and self.num_running + cost.num_requests > most:
            yield Refusal(CONCURRENCY, self._scope, most, self.num_running, cost.num_requests, RUNNING_RETRY_SECONDS)
        if cost.kv is not None:
            for share in self.kv_shares.shares(cost.model, cost.kv.room, cost.kv.asked):
                if share.held + share.asked > share.most:
                    numbers = (share.most, share.held, share.asked)
                    yield Refusal(share.limit, self._scope, *numbers, RUNNING_RETRY_SECONDS)
        for kind, window in self._windows.items():
            if wait_seconds := window.wait(cost.of(kind), now):
                used = window.used(now)
                yield Refusal(
                    kind.name, self._scope, window.limit, used, cost.of(kind), wait_seconds, is_daily=kind.is_daily
                )

    def charge(self, cost: Cost, now: float) -> AccountCharge:
        """Counts a request that runs from now on."""
        self.num_running += 1
        buckets = {kind: window.charge(cost.of(kind), now) for kind, window in self._windows.items()}
        self._tell(buckets)
        if cost.kv is not None:
            self.kv_shares.take(cost.model, cost.kv.asked)
        return AccountCharge(self, buckets, cost)

    def correct(self, buckets: dict[LimitKind, Bucket], difference: Cost) -> None:
        """Changes what was charged to what was used."""
        for kind, bucket in buckets.items():
            self._windows[kind].correct(bucket, difference.of(kind))
        self._tell(buckets)

    def allowances(self, now: float) -> Iterator[Allowance]:
        """What is left of each window."""
        for kind, window in self._windows.items():
            remaining = max(0, int(window.limit - window.used(now)))
            yield Allowance(kind.quantity, window.limit, remaining, window.idle_in(now))

    def kv_allowances(self, model: str, room: KVBytes) -> Iterator[Allowance]:
        """What is left of each share of a model, in bytes."""
        for share in self.kv_shares.shares(model, room):
            yield Allowance(share.quantity, share.most, share.most - share.held, None)

    def uses(self, now: float) -> Iterator[Use]:
        """What counts in each window."""
        for kind, window in self._windows.items():
            yield Use(self._caller, self._scope, kind.name, window.used(now), window.limit, window.idle_in(now))

    def kv_uses(self, rooms: Mapping[str, KVBytes]) -> Iterator[Use]:
        """What running requests hold of each model."""
        for model in self.kv_shares.models():
            for share in self.kv_shares.shares(model, rooms[model]):
                yield Use(self._caller, self._scope, share.limit, share.held, share.most, None, model)

    def _tell(self, buckets: dict[LimitKind, Bucket]) -> None:
        for kind, bucket in buckets.items():
            self._note(self._caller, self._scope, kind, bucket)


@dataclass(frozen=True, slots=True)
class AccountCharge:
    """A running request in an account."""

    account: Account
    buckets: dict[LimitKind, Bucket]
    cost: Cost

    def end(self, difference: Cost) -> None:
        """The request is over and took `difference` more than was charged."""
        self.account.num_running -= 1
        if self.cost.kv is not None:
            self.account.kv_shares.give_back(self.cost.model, self.cost.kv.asked)
        self.account.correct(self.buckets, difference)
