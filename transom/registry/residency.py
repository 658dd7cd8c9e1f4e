"""`Residency`: which models are in RAM. The one owner of that state; decides, and does nothing itself.

Events come in (a request arrives or leaves, a load has ended, time has passed), `due` says what is to be done. At any
moment the claims of all models that are being loaded, loaded or being unloaded are at most `max_ram_bytes`. Loads begin
in the order in which their first request came; whoever is first in that queue gets the RAM of models without requests,
the one used longest ago first. Models that are never without requests give way in turn: after HANDOVER_SECONDS they
take no new ones until the first in the queue has been loaded. Nobody who runs is disturbed, nobody waits for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count

from transom.errors import ModelLoadingError, QueueFullError
from transom.registry.model_slot import Claim, ModelSlot, SlotState, Ticket

HANDOVER_SECONDS = 5.0
"""A model that is loaded is sent away from its requests no earlier, and for nobody who has waited less."""
_BUSY_RETRY_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Load:
    """To be done: start the model; then say `load_succeeded` or `load_failed`."""

    model_id: str


@dataclass(frozen=True, slots=True)
class Unload:
    """To be done: end the model's process; then say `unloaded`."""

    model_id: str


class Residency:
    """All slots. Not thread-safe; every method returns at once.

    After any of them, `due` must be called and its actions begun. `clock` gives seconds.
    """

    def __init__(
        self, claims: Iterable[Claim], *, max_ram_bytes: int | None, max_waiting: int, clock: Callable[[], float]
    ) -> None:
        self._slots = {claim.model_id: ModelSlot(claim) for claim in claims}
        self._max_ram_bytes = max_ram_bytes
        self._max_waiting = max_waiting
        self._clock = clock
        self._numbers = count()

    def slot(self, model_id: str) -> ModelSlot:
        """For looking at; only this class changes it."""
        return self._slots[model_id]

    def idle_seconds(self, model_id: str) -> float | None:
        """Since when a loaded model has had no request; None for one that has some, or is not loaded."""
        slot = self._slots[model_id]
        return self._clock() - slot.last_used if slot.is_idle else None

    @property
    def charged_bytes(self) -> int:
        """RAM that is taken, or may be at any moment."""
        return sum(slot.claim.ram_bytes for slot in self._slots.values() if slot.is_charged)

    @property
    def num_waiting(self) -> int:
        """Requests that wait for a load."""
        return sum(len(slot.waiting) for slot in self._slots.values())

    def check(self, model_id: str) -> None:
        """Raises what `arrive` would raise for an ordinary request."""
        slot = self._slots[model_id]
        if slot.state is SlotState.FAILED and (seconds := slot.retry_at - self._clock()) > 0:
            raise _failed(slot, seconds)
        if not slot.takes_users and self.num_waiting >= self._max_waiting:
            raise QueueFullError(
                f"{self.num_waiting} requests wait for models to be loaded, which is as many as may.",
                retry_after_seconds=_BUSY_RETRY_SECONDS,
            )

    def arrive(self, model_id: str, *, insists: bool = False) -> Ticket:
        """A request wants to use a model: admitted at once if that is loaded, else waiting.

        Raises QueueFullError when too many wait, ModelLoadingError for a model that has failed not long ago; neither
        holds for who insists.
        """
        if not insists:
            self.check(model_id)
        slot = self._slots[model_id]
        ticket = Ticket(model_id, next(self._numbers), self._clock())
        if slot.takes_users:
            self._admit(slot, ticket)
        else:
            slot.waiting.append(ticket)
            if slot.state is SlotState.FAILED:
                slot.state = SlotState.UNLOADED
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """The request has ended, or waits no longer."""
        slot = self._slots[ticket.model_id]
        if ticket.is_admitted:
            slot.num_users -= 1
            slot.last_used = self._clock()
        elif ticket in slot.waiting:
            slot.waiting.remove(ticket)

    def load_succeeded(self, model_id: str) -> None:
        """The model of a `Load` is ready."""
        slot = self._slots[model_id]
        slot.state, slot.failure = SlotState.LOADED, None
        slot.is_sent_away = slot.is_to_unload = False
        slot.loaded_at = slot.last_used = self._clock()
        slot.num_loads += 1

    def load_failed(self, model_id: str, error: Exception) -> None:
        """The model of a `Load` cannot be loaded, or a loaded one has died for good; nothing of it is left in RAM."""
        slot = self._slots[model_id]
        slot.fail(error, self._clock())
        slot.is_sent_away = slot.is_to_unload = False
        for ticket in slot.waiting:
            ticket.error = _failed(slot, slot.retry_at - slot.failed_at)
        slot.waiting.clear()

    def unloaded(self, model_id: str) -> None:
        """The process of an `Unload` is gone."""
        slot = self._slots[model_id]
        slot.state = SlotState.UNLOADED
        slot.is_sent_away = slot.is_to_unload = False

    def ask_unload(self, model_id: str) -> None:
        """An operator wants the model unloaded as soon as its requests have ended; new ones wait and load it again."""
        slot = self._slots[model_id]
        slot.is_to_unload = slot.state is SlotState.LOADED

    def due(self) -> list[Load | Unload]:
        """What is to be begun now. Admits whoever waits for a model that is loaded."""
        self._admit_waiting()
        actions: list[Load | Unload] = [self._unload(slot) for slot in self._resting()]
        actions += self._serve_queue()
        self._admit_waiting()
        return actions

    def _resting(self) -> list[ModelSlot]:
        now = self._clock()
        slots = self._slots.values()
        return [slot for slot in slots if (slot.is_to_unload and slot.is_idle) or slot.is_due_to_rest(now)]

    def _serve_queue(self) -> Iterator[Load | Unload]:
        """Loads from the head of the queue while there is room; then room is made for the one that is first."""
        for slot in self._slots.values():
            slot.is_sent_away = False
        queue = [slot for slot in self._slots.values() if slot.state is SlotState.UNLOADED and slot.waiting]
        for slot in sorted(queue, key=lambda slot: slot.waiting[0].number):
            if self._missing_bytes(slot) > 0:
                yield from self._make_room(slot)
                return
            slot.state = SlotState.LOADING
            yield Load(slot.claim.model_id)

    def _make_room(self, head: ModelSlot) -> Iterator[Unload]:
        """Unloads models without requests if that is enough, with those that are on their way out and, when the head of
        the queue has waited long, those that will be."""
        leaving = [slot for slot in self._slots.values() if slot.state is SlotState.UNLOADING]
        missing = self._missing_bytes(head) - sum(slot.claim.ram_bytes for slot in leaving)
        chosen: list[ModelSlot] = []
        for slot in self._victims(head):
            if missing <= 0:
                break
            chosen.append(slot)
            missing -= slot.claim.ram_bytes
        if missing > 0:
            return
        for slot in chosen:
            if slot.is_idle:
                yield self._unload(slot)
            else:
                slot.is_sent_away = True

    def _victims(self, head: ModelSlot) -> list[ModelSlot]:
        """Models that may be unloaded for the head of the queue, in this order."""
        now = self._clock()
        candidates = [slot for slot in self._slots.values() if slot.state is SlotState.LOADED and not slot.claim.pinned]
        idle = sorted((slot for slot in candidates if slot.is_idle), key=lambda slot: slot.last_used)
        if now - head.waiting[0].arrived < HANDOVER_SECONDS:
            return idle
        busy = [slot for slot in candidates if not slot.is_idle and now - slot.loaded_at >= HANDOVER_SECONDS]
        return idle + sorted(busy, key=lambda slot: slot.loaded_at)

    def _missing_bytes(self, slot: ModelSlot) -> int:
        """What is taken by others and needed by `slot`; 0 or less when it can be loaded."""
        if self._max_ram_bytes is None:
            return 0
        return self.charged_bytes + slot.claim.ram_bytes - self._max_ram_bytes

    def _unload(self, slot: ModelSlot) -> Unload:
        slot.state = SlotState.UNLOADING
        return Unload(slot.claim.model_id)

    def _admit_waiting(self) -> None:
        for slot in self._slots.values():
            if slot.takes_users:
                for ticket in slot.waiting:
                    self._admit(slot, ticket)
                slot.waiting.clear()

    def _admit(self, slot: ModelSlot, ticket: Ticket) -> None:
        ticket.is_admitted = True
        slot.num_users += 1
        slot.last_used = self._clock()


def _failed(slot: ModelSlot, retry_after_seconds: float) -> ModelLoadingError:
    return ModelLoadingError(
        f"The model '{slot.claim.model_id}' could not be loaded: {slot.failure}",
        retry_after_seconds=retry_after_seconds,
    )
