"""Shares of the KV budgets: over random schedules against a simple model; and what a refusal says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from tests.quotas.clocks import Clock
from tests.quotas.test_ledger import ledger_of, refusal
from transom.config.registry_config import ResourceQuota
from transom.errors import BudgetExceededError, QuotaExceededError
from transom.quotas import KVDemand, QuotaLedger, Quotas, Reservation
from transom.request import KVBytes

ROOM = KVBytes(ram=1000, ssd=10_000)


def demand(ram: int, ssd: int = 0, room: KVBytes = ROOM) -> KVDemand:
    return KVDemand(KVBytes(ram, ssd), room)


def reserve(ledger: QuotaLedger, key: str, ram: int, ssd: int = 0, **names: str) -> Reservation:
    return ledger.reserve(key, names.get("tier", "default"), names.get("model", "m"), 1, demand(ram, ssd))


@pytest.mark.parametrize("share", ["max_kv_ram_share", "max_kv_ssd_share"])
def test_a_share_holds_names_itself_and_is_there_again_when_requests_end(share: str) -> None:
    ledger = ledger_of(Clock(), **{share: 0.5})
    first = reserve(ledger, "key", 300, 3000)
    second = reserve(ledger, "key", 200, 2000)
    error = refusal(lambda: reserve(ledger, "key", 1, 1))
    assert (error.limit, error.scope, error.retry_after_seconds) == (share, "tier default", 1.0)
    most = 500 if "ram" in share else 5000
    assert f"{share} of tier 'default' is {most} bytes" in str(error)
    assert f"holds {most}, and this request needs 1." in str(error)
    reserve(ledger, "other key", 500, 5000)
    second.settle(7)
    second.settle(0)
    reserve(ledger, "key", 200, 2000).settle(0)
    assert refusal(lambda: reserve(ledger, "key", 201, 2001)).limit == share
    first.settle(0)
    reserve(ledger, "key", 500, 5000)


def test_what_is_more_than_the_whole_share_is_refused_for_good() -> None:
    ledger = ledger_of(Clock(), max_kv_ram_share=0.25)
    with pytest.raises(BudgetExceededError) as caught:
        reserve(ledger, "key", 251)
    assert "needs 251 bytes" in str(caught.value)
    assert "max_kv_ram_share 0.25 of tier 'default' is 250 bytes" in str(caught.value)
    reserve(ledger, "key", 250)


def test_a_share_is_of_each_model_by_itself_and_a_models_own_counts_beside_it() -> None:
    quotas = Quotas({"default": ResourceQuota(max_kv_ram_share=0.5)}, {"m": ResourceQuota(max_kv_ram_share=0.2)})
    ledger = QuotaLedger(quotas, clock=Clock())
    assert ledger.most_kv("default", "m", ROOM) == KVBytes(200, 10_000)
    assert ledger.most_kv("default", "other", ROOM) == KVBytes(500, 10_000)
    assert ledger.most_kv("gold", "other", ROOM) == ROOM
    assert (ledger.limits_kv("gold", "m"), ledger.limits_kv("gold", "other")) == (True, False)
    reserve(ledger, "key", 200)
    assert refusal(lambda: reserve(ledger, "key", 1)).scope == "model m"
    reserve(ledger, "key", 500, model="other")
    assert refusal(lambda: reserve(ledger, "key", 1, model="other")).scope == "tier default"


def test_what_is_left_of_a_share_is_told_in_bytes() -> None:
    ledger = ledger_of(Clock(), max_kv_ram_share=0.5, max_kv_ssd_share=0.1)
    assert not ledger.allowances("key", "default", "m"), "nobody has said how much there is"
    reserve(ledger, "key", 100, 1000)
    assert [(left.quantity, left.limit, left.remaining) for left in ledger.allowances("key", "default", "m")] == [
        ("kv-ram-bytes", 500, 400),
        ("kv-ssd-bytes", 1000, 0),
    ]
    uses = {(use.limit, use.model): (use.used, use.most) for use in ledger.uses()}
    assert uses == {("max_kv_ram_share", "m"): (100, 500), ("max_kv_ssd_share", "m"): (1000, 1000)}


def test_a_share_of_an_ssd_that_is_not_there_limits_nothing() -> None:
    ledger = ledger_of(Clock(), max_kv_ssd_share=0.1)
    kv = demand(1000, 0, KVBytes(1000, 0))
    for _ in range(3):
        ledger.reserve("key", "default", "m", 1, kv)


def test_a_request_that_another_limit_refuses_holds_nothing() -> None:
    ledger = ledger_of(Clock(), max_kv_ram_share=0.5, max_requests_per_hour=1)
    first = reserve(ledger, "key", 300)
    assert refusal(lambda: reserve(ledger, "key", 100)).limit == "max_requests_per_hour"
    first.settle(0)
    reserve(ledger, "key", 500)


@dataclass
class Held:
    """What the model remembers of a request that runs."""

    key: str
    model: str
    kv: KVBytes


class ShareMachine(RuleBasedStateMachine):
    """Requests of two keys at two models come and end at random, in whatever way; the server restarts at random."""

    MOST = KVBytes(ram=400, ssd=2500)

    def __init__(self) -> None:
        super().__init__()
        self.quotas = Quotas({"default": ResourceQuota(max_kv_ram_share=0.4, max_kv_ssd_share=0.25)})
        self.ledger = QuotaLedger(self.quotas, clock=Clock())
        self.running: list[tuple[Reservation, Held]] = []

    @rule(key=st.sampled_from("ab"), model=st.sampled_from("mn"), ram=st.integers(0, 500), ssd=st.integers(0, 3000))
    def ask(self, key: str, model: str, ram: int, ssd: int) -> None:
        held = self._held(key, model)
        asked = KVBytes(ram, ssd)
        try:
            reservation = reserve(self.ledger, key, ram, ssd, model=model)
        except BudgetExceededError:
            assert not asked.is_within(self.MOST), "refused for good, and would fit"
        except QuotaExceededError as error:
            assert asked.is_within(self.MOST)
            assert not (held + asked).is_within(self.MOST), "refused with room enough"
            assert error.retry_after_seconds == 1.0
        else:
            self.running.append((reservation, Held(key, model, asked)))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), num_tokens=st.integers(0, 5), times=st.integers(1, 2))
    def end(self, data: st.DataObject, num_tokens: int, times: int) -> None:
        reservation, _ = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        for _ in range(times):
            reservation.settle(num_tokens)

    @rule()
    def kill(self) -> None:
        """The worker's memory is gone with the server, and so is what was held of it."""
        self.running.clear()
        self.ledger = QuotaLedger(self.quotas, clock=Clock())

    @rule()
    def recover(self) -> None:
        """When all have ended, all of it is there again."""
        while self.running:
            self.running.pop()[0].settle(0)
        for key in "ab":
            for model in "mn":
                reserve(self.ledger, key, self.MOST.ram, self.MOST.ssd, model=model).settle(0)

    @invariant()
    def nobody_holds_more_than_the_share(self) -> None:
        for key in "ab":
            for model in "mn":
                held = self._held(key, model)
                assert held.is_within(self.MOST)
                self.ledger.most_kv("default", model, ROOM)
                told: dict[str, Any] = {
                    left.quantity: left.remaining for left in self.ledger.allowances(key, "default", model)
                }
                assert told == {
                    "kv-ram-bytes": self.MOST.ram - held.ram,
                    "kv-ssd-bytes": self.MOST.ssd - held.ssd,
                }

    def _held(self, key: str, model: str) -> KVBytes:
        total = KVBytes()
        for _, held in self.running:
            if (held.key, held.model) == (key, model):
                total += held.kv
        return total


def test_over_random_schedules_no_key_holds_more_than_its_share_and_it_always_recovers() -> None:
    run_state_machine_as_test(ShareMachine)
