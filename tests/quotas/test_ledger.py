"""The ledger over random schedules against a simple model; and each limit, and each way in which a request can end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from tests.quotas.clocks import Clock
from transom.config.registry_config import ResourceQuota
from transom.errors import QuotaExceededError
from transom.quotas import QuotaLedger, Quotas, Reservation
from transom.quotas.store import Entry

GENEROUS = 10**9


def ledger_of(clock: Clock, **limits: Any) -> QuotaLedger:
    return QuotaLedger(Quotas({"default": ResourceQuota(**limits)}), clock=clock)


def refusal(call: Callable[[], object]) -> QuotaExceededError:
    with pytest.raises(QuotaExceededError) as caught:
        call()
    return caught.value


@pytest.mark.parametrize(
    ("limit", "most", "said"),
    [
        ("max_requests_per_hour", 1, "; 1 is used or reserved, and this request takes at least 1. "),
        ("max_requests_per_hour", 2, "; 2 are used or reserved, and this request takes at least 1. "),
        ("max_concurrent_requests", 1, ", and 1 is running. "),
        ("max_concurrent_requests", 2, ", and 2 are running. "),
    ],
)
def test_a_refusal_says_how_much_is_used(limit: str, most: int, said: str) -> None:
    ledger = ledger_of(Clock(), **{limit: most})
    held = [ledger.reserve("key", "default", "m", 1) for _ in range(most)]
    assert said in str(refusal(lambda: ledger.reserve("key", "default", "m", 1)))
    for reservation in held:
        reservation.settle(1)


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [
        ("max_tokens_per_second", 1),
        ("max_tokens_per_hour", 3600),
        ("max_tokens_per_day", 86400),
        ("max_requests_per_second", 1),
        ("max_requests_per_hour", 3600),
        ("max_requests_per_day", 86400),
    ],
)
def test_every_limit_holds_names_itself_and_recovers(limit: str, seconds: int) -> None:
    clock = Clock()
    ledger = ledger_of(clock, **{limit: 3})
    size = 3 if "tokens" in limit else 1000
    for _ in range(1 if "tokens" in limit else 3):
        ledger.reserve("key", "default", "m", size).settle(size)
    error = refusal(lambda: ledger.reserve("key", "default", "m", 1))
    assert (error.limit, error.scope, error.is_daily) == (limit, "tier default", seconds == 86400)
    assert seconds <= error.retry_after_seconds <= seconds * 1.01
    assert limit in str(error)
    assert refusal(lambda: ledger.check("key", "default", "m")).limit == limit
    ledger.reserve("other key", "default", "m", 1)
    clock.seconds += error.retry_after_seconds + 1e-6
    ledger.check("key", "default", "m")
    ledger.reserve("key", "default", "m", size)


def test_what_runs_at_the_same_time_is_limited_too() -> None:
    ledger = ledger_of(Clock(), max_concurrent_requests=2)
    first, _ = (ledger.reserve("key", "default", "m", 10) for _ in range(2))
    error = refusal(lambda: ledger.reserve("key", "default", "m", 10))
    assert (error.limit, error.retry_after_seconds) == ("max_concurrent_requests", 1.0)
    first.settle(0)
    ledger.reserve("key", "default", "m", 10)


def test_a_request_is_charged_for_what_it_used_and_only_once() -> None:
    clock = Clock()
    ledger = ledger_of(clock, max_tokens_per_hour=100, max_requests_per_hour=2)
    reservation = ledger.reserve("key", "default", "m", 100)
    assert refusal(lambda: ledger.reserve("key", "default", "m", 1)).limit == "max_tokens_per_hour"
    reservation.settle(30)
    reservation.settle(0)
    assert {left.quantity: left.remaining for left in ledger.allowances("key", "default", "m")} == {
        "tokens": 70,
        "requests": 1,
    }


def test_a_request_that_came_to_nothing_does_not_count() -> None:
    ledger = ledger_of(Clock(), max_tokens_per_hour=100, max_requests_per_hour=1)
    for _ in range(5):
        ledger.reserve("key", "default", "m", 100).settle(0)
    assert not [use for use in ledger.uses() if use.used]


def test_a_refused_request_counts_nowhere() -> None:
    ledger = QuotaLedger(
        Quotas({"default": ResourceQuota(max_tokens_per_hour=100)}, {"m": ResourceQuota(max_requests_per_hour=1)}),
        clock=Clock(),
    )
    ledger.reserve("key", "default", "m", 10).settle(10)
    assert refusal(lambda: ledger.reserve("key", "default", "m", 10)).scope == "model m"
    assert [left.remaining for left in ledger.allowances("key", "default", None)] == [90]


def test_a_models_quota_counts_for_each_key_and_beside_its_tiers() -> None:
    quotas = Quotas({"gold": ResourceQuota(max_tokens_per_hour=100)}, {"m": ResourceQuota(max_tokens_per_hour=50)})
    ledger = QuotaLedger(quotas, clock=Clock())
    ledger.reserve("a", "gold", "m", 50).settle(50)
    assert refusal(lambda: ledger.reserve("a", "gold", "m", 1)).scope == "model m"
    ledger.reserve("b", "gold", "m", 50)
    ledger.reserve("a", "gold", "other", 50)
    assert refusal(lambda: ledger.reserve("a", "gold", "other", 1)).scope == "tier gold"
    ledger.reserve("c", "unlimited", "other", GENEROUS)
    assert refusal(lambda: [ledger.reserve("c", "unlimited", "m", 50) for _ in range(2)]).scope == "model m"


def test_the_refusal_is_by_whatever_lasts_longest() -> None:
    ledger = ledger_of(Clock(), max_requests_per_second=1, max_tokens_per_day=10, max_concurrent_requests=1)
    ledger.reserve("key", "default", "m", 10)
    assert refusal(lambda: ledger.check("key", "default", "m")).limit == "max_tokens_per_day"


@dataclass
class DictStore:
    """What a database would hold."""

    entries: dict[tuple[str, str, str, int], Entry] = field(default_factory=dict)

    def load(self) -> list[Entry]:
        return [entry for entry in self.entries.values() if entry.amount]

    def put(self, entry: Entry) -> None:
        self.entries[entry.caller, entry.scope, entry.limit, entry.number] = entry

    def close(self) -> None:
        pass


def test_a_long_debt_of_a_short_window_is_kept_and_so_is_its_settlement() -> None:
    clock, store = Clock(), DictStore()
    quotas = Quotas({"default": ResourceQuota(max_tokens_per_second=10)})
    reservation = QuotaLedger(quotas, store, clock).reserve("key", "default", "m", 5000)
    error = refusal(lambda: QuotaLedger(quotas, store, clock).check("key", "default", "m"))
    assert error.retry_after_seconds == pytest.approx(500, abs=1)
    reservation.settle(5)
    QuotaLedger(quotas, store, clock).reserve("key", "default", "m", 5)


@dataclass
class Charge:
    """What the model remembers of a request."""

    began: float
    num_tokens: int
    is_running: bool = True


class QuotaMachine(RuleBasedStateMachine):
    """Requests of one key come, run and end at random; the server restarts at random."""

    LIMIT = 1000
    PER_HOUR = 10

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.store = DictStore()
        limits = {"max_tokens_per_hour": self.LIMIT, "max_requests_per_hour": self.PER_HOUR}
        self.quotas = Quotas({"default": ResourceQuota(**limits)})
        self.ledger = QuotaLedger(self.quotas, self.store, self.clock)
        self.running: list[tuple[Reservation, Charge]] = []
        self.charges: list[Charge] = []

    @rule(num_tokens=st.integers(1, 1500))
    def ask(self, num_tokens: int) -> None:
        try:
            reservation = self.ledger.reserve("key", "default", "m", num_tokens)
        except QuotaExceededError as error:
            assert 0 < error.retry_after_seconds <= 3600 * 1.5 + 60
            assert self._recent(3600 * 1.5 + 60), "refused with nothing used"
            return
        charge = Charge(self.clock.seconds, num_tokens)
        self.charges.append(charge)
        self.running.append((reservation, charge))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.running) - 1))
        reservation, charge = self.running.pop(index)
        charge.num_tokens = data.draw(st.integers(0, charge.num_tokens))
        charge.is_running = False
        reservation.settle(charge.num_tokens)

    @rule(seconds=st.one_of(st.floats(0, 60), st.floats(0, 5000)))
    def wait(self, seconds: float) -> None:
        self.clock.seconds += seconds

    @rule()
    def kill(self) -> None:
        """What runs is never settled: its reservation stays."""
        self.running.clear()
        self.ledger = QuotaLedger(self.quotas, self.store, self.clock)

    @rule()
    def recover(self) -> None:
        """Whatever happened, an idle key gets everything back."""
        self.clock.seconds += 2 * 3600 * 1.5
        self.ledger.reserve("key", "default", "m", self.LIMIT).settle(0)

    @invariant()
    def never_over_by_more_than_one_request(self) -> None:
        recent = self._recent(3600)
        tokens = sorted(charge.num_tokens for charge in recent)
        assert sum(tokens) <= self.LIMIT or sum(tokens[:-1]) == 0
        assert len([charge for charge in recent if charge.num_tokens]) <= self.PER_HOUR

    def _recent(self, seconds: float) -> list[Charge]:
        return [charge for charge in self.charges if charge.began > self.clock.seconds - seconds]


def test_over_random_schedules_a_key_is_never_over_and_always_recovers() -> None:
    run_state_machine_as_test(QuotaMachine)


@given(st.integers(1, 200))
def test_s20_a_crowd_at_the_edge_gets_exactly_the_limit(size: int) -> None:
    ledger = ledger_of(Clock(), max_requests_per_second=7, max_concurrent_requests=100)
    admitted = 0
    for _ in range(size):
        try:
            ledger.reserve("key", "default", "m", 1)
        except QuotaExceededError:
            continue
        admitted += 1
    assert admitted == min(size, 7)
