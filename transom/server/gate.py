"""`Gate`: one caller's way to one model, past its quota. Made for each answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from transom.llm import GenerationRequest, TextDelta
from transom.quotas import QuotaLedger, Reservation
from transom.registry import ServedModel
from transom.server.caller import Caller


@dataclass(frozen=True, slots=True)
class Gate:
    """For one answer."""

    caller: Caller
    served: ServedModel
    quotas: QuotaLedger

    def check(self) -> None:
        """Raises `QuotaExceededError` when not even the smallest request would be let in."""
        self.quotas.check(self.caller.name, self.caller.tier, self.served.id)

    def reserve(self, max_tokens: int) -> Reservation:
        """Charges the caller for as many tokens, until the reservation is settled. Raises `QuotaExceededError`."""
        return self.quotas.reserve(self.caller.name, self.caller.tier, self.served.id, max_tokens)

    def generate(self, request: GenerationRequest) -> AsyncGenerator[TextDelta]:
        """As `LLM.generate`."""
        return self.served.llm.generate(request)
