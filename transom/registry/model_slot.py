"""`ModelSlot`: where one model stands between disk and RAM, who uses it, who waits for it. Knows no other model.

    UNLOADED -> LOADING -> LOADED -> UNLOADING -> UNLOADED
                   |          |
                   +-> FAILED <+      and from there, after a back-off, LOADING again

Plain state; `residency` decides what happens to it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from transom.errors import TransomError

RETRY_SECONDS = (5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0)
"""After the first, second, ... failure in a row nobody but an operator makes the model be loaded again for so long."""
FORGIVEN_AFTER_SECONDS = 600.0
"""A failure so long after the last one is the first one in a row."""


class SlotState(StrEnum):
    """Where a model stands."""

    UNLOADED = "unloaded"
    LOADING = "loading"
    LOADED = "loaded"
    UNLOADING = "unloading"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Claim:
    """What a model asks for, as the registry file says. Sizes in bytes, times in seconds."""

    model_id: str
    ram_bytes: int
    pinned: bool = False
    idle_unload_seconds: float | None = None


@dataclass(slots=True, eq=False)
class Ticket:
    """One request's wish to use a model. It waits, is admitted or has failed."""

    model_id: str
    number: int
    arrived: float
    is_admitted: bool = False
    error: TransomError | None = None

    @property
    def is_waiting(self) -> bool:
        return not self.is_admitted and self.error is None


@dataclass(slots=True, eq=False)
class ModelSlot:
    """One model's state. Times are of the clock of `residency`."""

    claim: Claim
    state: SlotState = SlotState.UNLOADED
    num_users: int = 0
    """Requests that were admitted and have not ended."""
    waiting: list[Ticket] = field(default_factory=list)
    """In the order of arrival."""
    last_used: float = 0.0
    """When the last user came or went."""
    loaded_at: float = 0.0
    is_sent_away: bool = False
    """It takes no new users, so that it can be unloaded when the ones it has are gone."""
    is_to_unload: bool = False
    """An operator wants it unloaded."""
    num_loads: int = 0
    """That succeeded."""
    failure: Exception | None = None
    num_failures: int = 0
    failed_at: float = 0.0

    @property
    def is_charged(self) -> bool:
        """It takes RAM, or may do so at any moment."""
        return self.state in (SlotState.LOADING, SlotState.LOADED, SlotState.UNLOADING)

    @property
    def takes_users(self) -> bool:
        """A request can begin at once."""
        return self.state is SlotState.LOADED and not self.is_sent_away and not self.is_to_unload

    @property
    def is_idle(self) -> bool:
        """Nobody would miss it now."""
        return self.state is SlotState.LOADED and self.num_users == 0

    @property
    def retry_at(self) -> float:
        """Until then a failed model is left alone."""
        return self.failed_at + RETRY_SECONDS[min(self.num_failures, len(RETRY_SECONDS)) - 1]

    def fail(self, error: Exception, now: float) -> None:
        """It could not be loaded, or has died for good."""
        is_in_a_row = self.num_failures > 0 and now - self.failed_at < FORGIVEN_AFTER_SECONDS
        self.num_failures = self.num_failures + 1 if is_in_a_row else 1
        self.failure, self.failed_at = error, now
        self.state = SlotState.FAILED

    def is_due_to_rest(self, now: float) -> bool:
        """Nobody has used it for longer than it may stay without."""
        limit = self.claim.idle_unload_seconds
        return limit is not None and self.is_idle and not self.claim.pinned and now - self.last_used >= limit
