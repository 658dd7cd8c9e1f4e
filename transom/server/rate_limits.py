"""The `x-ratelimit-*` headers: of the limits that hold for a request, the one with the least left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from starlette.types import Scope

from transom.quotas import KV_QUANTITIES, Allowance, QuotaLedger, duration_text
from transom.server.caller import NOBODY, Caller
from transom.server.request_record import record_of

_QUANTITIES = ("requests", "tokens", *KV_QUANTITIES.values())


def rate_limit_headers(quotas: QuotaLedger, scope: Scope) -> Mapping[str, str]:
    """For an answer to a caller that is known; nothing where nothing is limited."""
    caller = scope["state"].get("caller")
    if not isinstance(caller, Caller) or caller == NOBODY:
        return {}
    return _headers(quotas.allowances(caller.name, caller.tier, record_of(scope).model))


def _headers(allowances: Sequence[Allowance]) -> dict[str, str]:
    headers = {}
    for quantity in _QUANTITIES:
        windows = [allowance for allowance in allowances if allowance.quantity == quantity]
        if windows:
            least = min(windows, key=lambda allowance: allowance.remaining)
            headers[f"x-ratelimit-limit-{quantity}"] = f"{least.limit:.10g}"
            headers[f"x-ratelimit-remaining-{quantity}"] = str(least.remaining)
            if least.idle_in_seconds is not None:
                headers[f"x-ratelimit-reset-{quantity}"] = duration_text(least.idle_in_seconds)
    return headers
