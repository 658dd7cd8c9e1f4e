"""`QuotaLedger`: reserves before a request runs, settles when it is over, refuses what would break a limit.

A request counts from its admission on, with prompt and `max_tokens`, and after its end with the tokens that were
counted: however it ended, it is charged for the work that was done. Used by one thread.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from transom.errors import BudgetExceededError, QuotaExceededError
from transom.quotas.account import Account, AccountCharge, Allowance, Cost, Refusal, Use
from transom.quotas.clock import Clock, steady_wall_clock
from transom.quotas.kv_share import KV_QUANTITIES, KVDemand, KVShares, most_of
from transom.quotas.limits import CONCURRENCY, KINDS, LimitKind, Quotas
from transom.quotas.store import Entry, EntryStore, NoStore
from transom.quotas.window import Bucket
from transom.request import KVBytes

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
        self._rooms: dict[str, KVBytes] = {}
        self._kept: dict[tuple[str, str], list[Entry]] = defaultdict(list)
        for entry in self._store.load():
            self._kept[entry.caller, entry.scope].append(entry)

    @property
    def tiers(self) -> frozenset[str]:
        """The tiers that a key may have."""
        return frozenset(self._quotas.tiers)

    def limits_kv(self, tier: str, model: str) -> bool:
        """Whether keys of this tier have a share of the model's KV budgets, not all."""
        return any(quota.limits_kv for _, quota in self._quotas.scopes(tier, model))

    def most_kv(self, tier: str, model: str, room: KVBytes) -> KVBytes:
        """What of a model's budgets `room` a key of this tier may hold."""
        self._rooms.setdefault(model, room)
        most = [room, *(most_of(quota, room) for _, quota in self._quotas.scopes(tier, model))]
        return KVBytes(min(each.ram for each in most), min(each.ssd for each in most))

    def check(self, caller: str, tier: str, model: str, kv: KVDemand | None = None) -> None:
        """Raises `QuotaExceededError` when not even the smallest request, which holds `kv`, may run now: asked before
        any work is done."""
        self._refuse(self._accounts_of(caller, tier, model), Cost(1, model=model, kv=kv))

    def reserve(self, caller: str, tier: str, model: str, num_tokens: int, kv: KVDemand | None = None) -> Reservation:
        """Counts a request of at most so many tokens that holds `kv` until it is settled.

        Raises `QuotaExceededError`, and `BudgetExceededError` when its key may never hold so much; counts nothing then.
        """
        accounts, cost = self._accounts_of(caller, tier, model), Cost(num_tokens, model=model, kv=kv)
        if kv is not None:
            self._rooms[model] = kv.room
            self._check_kv(tier, model, kv)
        self._refuse(accounts, cost)
        now = self._clock()
        return Reservation([account.charge(cost, now) for account in accounts], cost)

    def allowances(self, caller: str, tier: str, model: str | None) -> list[Allowance]:
        """What is left of every limit that holds for these."""
        now, accounts = self._clock(), self._accounts_of(caller, tier, model)
        allowances = [left for account in accounts for left in account.allowances(now)]
        if model is not None and model in self._rooms:
            room = self._rooms[model]
            allowances += [left for account in accounts for left in account.kv_allowances(model, room)]
        return allowances

    def uses(self) -> Iterator[Use]:
        """Everything that counts at this moment, of every key that was ever heard of."""
        now = self._clock()
        for caller, scope in sorted({*self._accounts, *self._kept}):
            if (account := self._account(caller, scope)) is not None:
                yield from account.uses(now)
                yield from account.kv_uses(self._rooms)

    def close(self) -> None:
        """Writes what is not written yet."""
        self._store.close()

    def _check_kv(self, tier: str, model: str, kv: KVDemand) -> None:
        for scope, quota in self._quotas.scopes(tier, model):
            for share in KVShares(quota).shares(model, kv.room, kv.asked):
                if share.asked > share.most:
                    raise BudgetExceededError(
                        f"The request needs {share.asked} bytes for keys and values at once, and {share.limit} "
                        f"{share.part:g} of {_described(scope)} is {share.most} bytes of this model's; shorten the "
                        "input or lower max_tokens."
                    )

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


def _described(scope: str) -> str:
    kind, _, name = scope.partition(" ")
    return f"{kind} '{name}'"


def _error(refusal: Refusal) -> QuotaExceededError:
    whose = f"{refusal.limit} of {_described(refusal.scope)} is {refusal.most:.10g}"
    are = "is" if refusal.used == 1 else "are"
    if refusal.limit == CONCURRENCY:
        reason = f"{whose}, and {refusal.used} {are} running"
    elif refusal.limit in KV_QUANTITIES:
        reason = f"{whose} bytes; what waits or runs holds {refusal.used}, and this request needs {refusal.asked}"
    else:
        takes = f"may take {refusal.asked}" if refusal.asked > 1 else "takes at least 1"
        reason = f"{whose}; {refusal.used} {are} used or reserved, and this request {takes}"
    return QuotaExceededError(
        f"Quota exceeded: {reason}. Try again in {refusal.wait_seconds:.3f} s.",
        limit=refusal.limit,
        scope=refusal.scope,
        retry_after_seconds=refusal.wait_seconds,
        is_daily=refusal.is_daily,
    )
