"""`Gate`: one caller's way to one model, past its quota and the queue. Made for each answer, when it is asked for."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from itertools import accumulate

from transom.llm import Allowance, GenerationRequest, TextDelta
from transom.quotas import KVDemand, QuotaLedger, Reservation
from transom.registry import ServedModel
from transom.request import CacheOptions
from transom.server.caller import Caller
from transom.server.open_requests import OpenRequests
from transom.server.plan import Plan
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

    def max_request_tokens(self, cache: CacheOptions) -> int:
        """As `ServedModel.max_request_tokens`, within what the caller may hold of the KV budgets."""
        return max_request_tokens(self.served, self.quotas, self.caller.tier, cache)

    def reserve(self, plan: Plan) -> tuple[Reservation, Allowance]:
        """Charges the caller for what the plan may use, until the reservation is settled; and how many of its sequences
        may run at once.

        Raises `QuotaExceededError`, and `BudgetExceededError` for a sequence that takes more than the caller may ever
        hold of the KV budgets.
        """
        kv, allowance = self._kv_demand(plan)
        caller, model = self.caller, self.served.id
        return self.quotas.reserve(caller.name, caller.tier, model, plan.max_tokens, kv), allowance

    def _kv_demand(self, plan: Plan) -> tuple[KVDemand | None, Allowance]:
        """Of as many sequences at once as the caller's share holds, the largest ones; at least of one."""
        if not self.quotas.limits_kv(self.caller.tier, self.served.id):
            return None, plan.allowance
        sizes = self.served.kv_sizes
        most = self.quotas.most_kv(self.caller.tier, self.served.id, sizes.room)
        default = self.served.engine_config.cache
        held = sorted(
            (
                sizes.of_sequence(request.max_sequence_tokens, request.cache or default)
                for request in (generation.request for generation in plan.requests)
            ),
            reverse=True,
        )
        sums = list(accumulate(held[: plan.allowance.max_sequences]))
        num_sequences = max(1, sum(each.is_within(most) for each in sums))
        return KVDemand(sums[num_sequences - 1], sizes.room), replace(plan.allowance, max_sequences=num_sequences)

    def generate(self, request: GenerationRequest) -> AsyncGenerator[TextDelta]:
        """As `LLM.generate`, when it is the caller's turn. Raises `QueueFullError`, too."""
        return self.turns.generate(self.caller.name, self.place, request, self.served.llm.generate)


def max_request_tokens(served: ServedModel, quotas: QuotaLedger, tier: str, cache: CacheOptions) -> int:
    """The longest request that window, budgets, and the shares of a key of this tier can ever hold."""
    longest = served.max_request_tokens(cache)
    if not quotas.limits_kv(tier, served.id):
        return longest
    sizes = served.kv_sizes
    return sizes.max_tokens(quotas.most_kv(tier, served.id, sizes.room), cache, longest)
