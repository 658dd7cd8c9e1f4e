"""`QuotaLedger`: reserves before a request runs, settles when it is over, refuses what would break a limit.

A request counts from its admission on, with prompt and `max_tokens`, and after its end with the tokens that were
counted: however it ended, it is charged for the work that was done. Used by one thread.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from transom.errors import QuotaExceededError
from transom.quotas.account import Account, AccountCharge, Allowance, Cost, Refusal, Use
from transom.quotas.clock import Clock, steady_wall_clock
from transom.quotas.limits import CONCURRENCY, KINDS, LimitKind, Quotas
from transom.quotas.store import Entry, EntryStore, NoStore
from transom.quotas.window import Bucket

_WORTH_KEEPING_SECONDS = 10.0
"""What is forgotten sooner is not written down: a restart takes about as long."""

_KINDS_BY_NAME = {kind.name: kind for kind in KINDS}


class Reservation:
    """What a running request may take. `settle` it when the request is over, however that came."""

    def __init__(self, charges: Iterable[AccountCharge], reserved: Cost) -> None:
        self._charges = list(charges)
        self._reserved = reserved

    def settle(self, num_tokens: int) -> None:
        """Counts the tokens that were used instead; without any the request does not count either. Idempotent."""
        used = Cost(num_tokens, 1 if num_tokens else 0)
        reserved = self._reserved
        difference = Cost(used.num_tokens - reserved.num_tokens, used.num_requests - reserved.num_requests)
        while self._charges:
            self._charges.pop().end(difference)


class QuotaLedger:
    """The accounts of all keys."""

    def __init__(self, quotas: Quotas, store: EntryStore | None = None, clock: Clock | None = None) -> None:
        self._quotas = quotas
        self._store = store or NoStore()
        self._clock = clock or steady_wall_clock()
        self._accounts: dict[tuple[str, str], Account] = {}
        self._kept: dict[tuple[str, str], list[Entry]] = defaultdict(list)
        for entry in self._store.load():
            self._kept[entry.caller, entry.scope].append(entry)

    @property
    def tiers(self) -> frozenset[str]:
        """The tiers that a key may have."""
        return frozenset(self._quotas.tiers)

    def check(self, caller: str, tier: str, model: str) -> None:
        """Raises `QuotaExceededError` when not even the smallest request may run now: asked before any work is done."""
        self._refuse(self._accounts_of(caller, tier, model), Cost(1))

    def reserve(self, caller: str, tier: str, model: str, num_tokens: int) -> Reservation:
        """Counts a request of at most so many tokens. Raises `QuotaExceededError`, and counts nothing then."""
        accounts, cost = self._accounts_of(caller, tier, model), Cost(num_tokens)
        self._refuse(accounts, cost)
        now = self._clock()
        return Reservation([account.charge(cost, now) for account in accounts], cost)

    def allowances(self, caller: str, tier: str, model: str | None) -> list[Allowance]:
        """What is left of every limit that holds for these."""
        now = self._clock()
        return [left for account in self._accounts_of(caller, tier, model) for left in account.allowances(now)]

    def uses(self) -> Iterator[Use]:
        """Everything that counts at this moment, of every key that was ever heard of."""
        now = self._clock()
        for caller, scope in sorted({*self._accounts, *self._kept}):
            if (account := self._account(caller, scope)) is not None:
                yield from account.uses(now)

    def close(self) -> None:
        """Writes what is not written yet."""
        self._store.close()

    def _accounts_of(self, caller: str, tier: str, model: str | None) -> list[Account]:
        scopes = [scope for scope, _ in self._quotas.scopes(tier, model)]
        return [account for scope in scopes if (account := self._account(caller, scope)) is not None]

    def _account(self, caller: str, scope: str) -> Account | None:
        """None for a scope that the registry does not have (any more)."""
        known = self._accounts.get((caller, scope))
        quota = self._quotas.of_scope(scope)
        if known is not None or quota is None:
            return known
        account = Account(caller, scope, quota, self._note)
        for name, entries in _by_limit(self._kept.pop((caller, scope), ())).items():
            if name in _KINDS_BY_NAME:
                account.restore(_KINDS_BY_NAME[name], [entry.bucket() for entry in entries], self._clock())
        self._accounts[caller, scope] = account
        return account

    def _refuse(self, accounts: Iterable[Account], cost: Cost) -> None:
        now = self._clock()
        refusals = [refusal for account in accounts for refusal in account.refusals(cost, now)]
        if refusals:
            raise _error(max(refusals, key=lambda refusal: refusal.wait_seconds))

    def _note(self, caller: str, scope: str, kind: LimitKind, bucket: Bucket) -> None:
        bucket.is_kept |= bucket.expires - self._clock() > _WORTH_KEEPING_SECONDS
        if bucket.is_kept:
            self._store.put(Entry(caller, scope, kind.name, bucket.number, bucket.amount, bucket.expires))


def _by_limit(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    grouped: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        grouped[entry.limit].append(entry)
    return grouped


def _error(refusal: Refusal) -> QuotaExceededError:
    kind, _, name = refusal.scope.partition(" ")
    whose = f"{refusal.limit} of {kind} '{name}' is {refusal.most:g}"
    if refusal.limit == CONCURRENCY:
        reason = f"{whose}, and {refusal.used} are running"
    else:
        unit = _KINDS_BY_NAME[refusal.limit].quantity
        takes = f"may take {refusal.asked}" if refusal.asked > 1 else "takes at least 1"
        reason = f"{whose}; {refusal.used} {unit} are used or reserved, and this request {takes}"
    return QuotaExceededError(
        f"Quota exceeded: {reason}. Try again in {refusal.wait_seconds:.3f} s.",
        limit=refusal.limit,
        scope=refusal.scope,
        retry_after_seconds=refusal.wait_seconds,
        is_daily=refusal.is_daily,
    )
