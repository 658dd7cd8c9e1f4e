"""`Gate`: one caller's way to one model, past its quota and the queue. Made for each answer, when it is asked for."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from transom.llm import GenerationRequest, TextDelta
from transom.quotas import QuotaLedger, Reservation
from transom.registry import ServedModel
from transom.server.caller import Caller
from transom.server.open_requests import OpenRequests
from transom.server.turns import Place, Turns


@dataclass(frozen=True, slots=True)
class Gate:
    """For one answer, which has its place in the queue from the beginning."""

    caller: Caller
    served: ServedModel
    quotas: QuotaLedger
    turns: Turns
    place: Place
    open_requests: OpenRequests

    def reserve(self, max_tokens: int) -> Reservation:
        """Charges the caller for as many tokens, until the reservation is settled. Raises `QuotaExceededError`."""
        return self.quotas.reserve(self.caller.name, self.caller.tier, self.served.id, max_tokens)

    def generate(self, request: GenerationRequest) -> AsyncGenerator[TextDelta]:
        """As `LLM.generate`, when it is the caller's turn. Raises `QueueFullError`, too."""
        return self.turns.generate(self.caller.name, self.place, request, self.served.llm.generate)
