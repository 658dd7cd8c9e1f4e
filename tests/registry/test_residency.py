"""Which models are in RAM: single rules, and random histories of requests, ends, failures and time."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from transom.errors import ModelLoadingError, QueueFullError, WeightsError
from transom.registry.model_slot import RETRY_SECONDS, Claim, SlotState, Ticket
from transom.registry.residency import HANDOVER_SECONDS, Load, Residency, Unload


class World:
    """A residency, a clock, and whoever does what is due."""

    def __init__(self, *claims: Claim, max_ram: int | None = 10, max_waiting: int = 100) -> None:
        self.now = 0.0
        self.residency = Residency(claims, max_ram_bytes=max_ram, max_waiting=max_waiting, clock=lambda: self.now)
        self.begun: list[Load | Unload] = []

    def arrive(self, model_id: str, **how: bool) -> Ticket:
        ticket = self.residency.arrive(model_id, **how)
        self.look()
        return ticket

    def leave(self, ticket: Ticket) -> None:
        self.residency.leave(ticket)
        self.look()

    def look(self) -> None:
        self.begun += self.residency.due()

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.look()

    def finish_all(self) -> None:
        """Everything that was begun, and what follows from it, ends well."""
        while self.begun:
            self.finish(self.begun.pop(0))

    def finish(self, action: Load | Unload) -> None:
        if isinstance(action, Load):
            self.residency.load_succeeded(action.model_id)
        else:
            self.residency.unloaded(action.model_id)
        self.look()

    def state(self, model_id: str) -> SlotState:
        return self.residency.slot(model_id).state


def test_requests_to_one_model_load_it_once_and_are_admitted_together() -> None:
    world = World(Claim("a", 5))
    tickets = [world.arrive("a") for _ in range(3)]
    assert world.begun == [Load("a")]
    assert all(ticket.is_waiting for ticket in tickets)
    world.finish_all()
    assert all(ticket.is_admitted for ticket in tickets)
    assert world.residency.slot("a").num_users == 3
    assert world.arrive("a").is_admitted


def test_the_model_used_longest_ago_makes_room() -> None:
    world = World(Claim("a", 5), Claim("b", 5), Claim("c", 5))
    for model_id in "ab":
        ticket = world.arrive(model_id)
        world.finish_all()
        world.leave(ticket)
        world.wait(1)
    world.leave(world.arrive("a"))
    waiting = world.arrive("c")
    assert world.begun == [Unload("b")]
    assert world.residency.charged_bytes == 10
    world.finish_all()
    assert waiting.is_admitted
    assert [world.state(model_id) for model_id in "abc"] == ["loaded", "unloaded", "loaded"]


def test_only_as_many_models_are_unloaded_as_are_needed() -> None:
    world = World(Claim("a", 3), Claim("b", 3), Claim("c", 3), Claim("d", 4))
    for model_id in "abc":
        ticket = world.arrive(model_id)
        world.finish_all()
        world.leave(ticket)
        world.wait(1)
    world.arrive("d")
    assert world.begun == [Unload("a")]


def test_nothing_is_unloaded_while_that_would_not_be_enough() -> None:
    world = World(Claim("small", 2), Claim("busy", 8), Claim("large", 9))
    world.leave(world.arrive("small"))
    world.finish_all()
    world.arrive("busy")
    world.finish_all()
    world.arrive("large")
    assert world.begun == []
    assert world.state("small") is SlotState.LOADED


def test_a_model_with_requests_is_never_unloaded_and_is_sent_away_in_the_end() -> None:
    world = World(Claim("a", 10), Claim("b", 10))
    first = world.arrive("a")
    world.finish_all()
    waiting = world.arrive("b")
    assert world.begun == []
    assert world.arrive("a").is_admitted, "it takes requests as long as nobody has waited long"
    world.wait(HANDOVER_SECONDS)
    late = world.arrive("a")
    assert late.is_waiting
    world.leave(first)
    assert world.begun == []
    second = Ticket("a", 0, 0.0, is_admitted=True)
    world.leave(second)
    assert world.begun == [Unload("a")]
    world.finish_all()
    assert waiting.is_admitted
    world.leave(waiting)
    world.finish_all()
    assert late.is_admitted


def test_a_model_that_was_sent_away_goes_on_when_the_one_who_waited_gives_up() -> None:
    world = World(Claim("a", 10), Claim("b", 10))
    world.arrive("a")
    world.finish_all()
    impatient = world.arrive("b")
    world.wait(HANDOVER_SECONDS)
    late = world.arrive("a")
    assert late.is_waiting
    world.leave(impatient)
    assert late.is_admitted
    assert world.residency.num_waiting == 0


def test_a_pinned_model_stays() -> None:
    world = World(Claim("a", 5, pinned=True, idle_unload_seconds=1.0), Claim("b", 5), Claim("c", 5))
    world.leave(world.arrive("a"))
    world.finish_all()
    world.leave(world.arrive("b"))
    world.finish_all()
    world.wait(1000)
    world.arrive("c")
    assert world.begun == [Unload("b")]
    world.finish_all()
    assert [world.state(model_id) for model_id in "abc"] == ["loaded", "unloaded", "loaded"]


def test_an_idle_model_is_unloaded_in_its_time_and_not_before() -> None:
    world = World(Claim("a", 5, idle_unload_seconds=60.0), Claim("b", 5))
    for model_id in "ab":
        world.leave(world.arrive(model_id))
    world.finish_all()
    user = world.arrive("a")
    world.wait(100)
    world.leave(user)
    world.wait(59)
    assert world.begun == []
    world.wait(1)
    assert world.begun == [Unload("a")]
    assert world.state("b") is SlotState.LOADED


def test_a_failed_load_answers_everybody_with_its_reason_and_is_tried_again_later() -> None:
    world = World(Claim("a", 5))
    tickets = [world.arrive("a") for _ in range(2)]
    world.residency.load_failed("a", WeightsError("lm_head is missing"))
    for ticket in tickets:
        assert isinstance(ticket.error, ModelLoadingError)
        assert "lm_head is missing" in str(ticket.error)
        assert ticket.error.retry_after_seconds == RETRY_SECONDS[0]
    with pytest.raises(ModelLoadingError, match="lm_head is missing") as caught:
        world.arrive("a")
    assert caught.value.retry_after_seconds == RETRY_SECONDS[0]
    world.wait(RETRY_SECONDS[0])
    world.begun.clear()
    assert world.arrive("a").is_waiting
    assert world.begun == [Load("a")]
    world.residency.load_failed("a", WeightsError("still missing"))
    with pytest.raises(ModelLoadingError, match="still missing") as caught:
        world.arrive("a")
    assert caught.value.retry_after_seconds == RETRY_SECONDS[1]


def test_an_operator_does_not_wait_for_the_back_off() -> None:
    world = World(Claim("a", 5), max_waiting=0)
    world.arrive("a", insists=True)
    world.residency.load_failed("a", WeightsError("missing"))
    world.begun.clear()
    assert world.arrive("a", insists=True).is_waiting
    assert world.begun == [Load("a")]


def test_the_queue_is_bounded() -> None:
    world = World(Claim("a", 5), Claim("b", 5), max_waiting=2)
    world.arrive("a")
    world.arrive("b")
    with pytest.raises(QueueFullError):
        world.arrive("a")
    world.finish_all()
    assert world.arrive("a").is_admitted


def test_loads_begin_in_the_order_of_the_first_requests_and_nobody_overtakes() -> None:
    world = World(Claim("busy", 6), Claim("large", 8), Claim("small", 4))
    world.arrive("busy")
    world.finish_all()
    world.arrive("large")
    world.wait(1)
    world.arrive("small")
    assert world.begun == []


def test_a_model_is_unloaded_at_an_operators_wish_when_its_requests_have_ended() -> None:
    world = World(Claim("a", 5))
    user = world.arrive("a")
    world.finish_all()
    world.residency.ask_unload("a")
    world.look()
    late = world.arrive("a")
    assert world.begun == []
    world.leave(user)
    assert world.begun == [Unload("a")]
    world.finish_all()
    assert late.is_admitted, "it waited, and the model was loaded again for it"


def test_a_model_that_dies_for_good_gives_its_ram_to_others() -> None:
    world = World(Claim("a", 10), Claim("b", 10))
    user = world.arrive("a")
    world.finish_all()
    waiting = world.arrive("b")
    world.residency.load_failed("a", WeightsError("crashed too often"))
    world.look()
    assert world.begun == [Load("b")]
    world.leave(user)
    world.finish_all()
    assert waiting.is_admitted


NAMES = ("a", "b", "c", "d")


class Histories(RuleBasedStateMachine):
    """Random requests, ends, outcomes and pauses; RAM stays within its cap, and everybody gets an answer."""

    waiting = Bundle("tickets")

    def __init__(self) -> None:
        super().__init__()
        claims = (Claim("a", 4), Claim("b", 5, idle_unload_seconds=3.0), Claim("c", 6), Claim("d", 2, pinned=True))
        self.world = World(*claims, max_ram=8, max_waiting=12)
        self.alive: list[Ticket] = []

    @rule(target=waiting, name=st.sampled_from(NAMES), insists=st.booleans())
    def arrive(self, name: str, insists: bool) -> Ticket | None:
        try:
            ticket = self.world.arrive(name, insists=insists)
        except QueueFullError:
            assert self.world.residency.num_waiting >= 12
            return None
        except ModelLoadingError:
            assert self.world.state(name) is SlotState.FAILED
            return None
        self.alive.append(ticket)
        return ticket

    @rule(ticket=consumes(waiting))
    def leave(self, ticket: Ticket | None) -> None:
        if ticket is not None:
            self.alive.remove(ticket)
            self.world.leave(ticket)

    @rule(index=st.integers(0, 5))
    def finish(self, index: int) -> None:
        if self.world.begun:
            self.world.finish(self.world.begun.pop(index % len(self.world.begun)))

    @rule(index=st.integers(0, 5))
    def fail(self, index: int) -> None:
        loads = [action for action in self.world.begun if isinstance(action, Load)]
        if loads:
            load = loads[index % len(loads)]
            self.world.begun.remove(load)
            self.world.residency.load_failed(load.model_id, WeightsError("broken"))
            self.world.look()

    @rule(name=st.sampled_from(NAMES))
    def die(self, name: str) -> None:
        if self.world.state(name) is SlotState.LOADED:
            self.world.residency.load_failed(name, WeightsError("died"))
            self.world.look()

    @rule(seconds=st.sampled_from([0.5, 2.0, HANDOVER_SECONDS, 60.0]))
    def wait(self, seconds: float) -> None:
        self.world.wait(seconds)

    @rule(name=st.sampled_from(NAMES[:3]))
    def ask_unload(self, name: str) -> None:
        self.world.residency.ask_unload(name)
        self.world.look()

    @invariant()
    def the_cap_holds(self) -> None:
        assert self.world.residency.charged_bytes <= 8

    @invariant()
    def nobody_is_counted_twice_or_forgotten(self) -> None:
        for name in NAMES:
            slot = self.world.residency.slot(name)
            mine = [ticket for ticket in self.alive if ticket.model_id == name]
            assert slot.num_users == sum(ticket.is_admitted for ticket in mine)
            assert set(slot.waiting) == {ticket for ticket in mine if ticket.is_waiting}

    @invariant()
    def a_model_that_is_going_has_no_requests(self) -> None:
        for name in NAMES:
            slot = self.world.residency.slot(name)
            assert slot.state is not SlotState.UNLOADING or slot.num_users == 0

    def teardown(self) -> None:
        """When everything that runs ends, and every load succeeds, everybody who waits is served."""
        for _ in range(100):
            self.world.finish_all()
            for ticket in [ticket for ticket in self.alive if not ticket.is_waiting]:
                self.alive.remove(ticket)
                self.world.leave(ticket)
            if not self.alive:
                break
            self.world.wait(1.0)
        assert not self.alive, "somebody waits for ever"
        super().teardown()


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
