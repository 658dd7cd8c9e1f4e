"""Who asks, as plain data in the request's state: put there by the guard of keys, read by the routes."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from transom.config.registry_config import DEFAULT_TIER
from transom.server.errors import HttpError


@dataclass(frozen=True, slots=True)
class Caller:
    """What a key allows. Without arguments: the operator, or anybody where no key is asked for."""

    name: str = ""
    """Of the key."""
    tenant: str = ""
    """Whose cached prefixes it shares."""
    tier: str = DEFAULT_TIER
    """Which quotas hold."""
    models: frozenset[str] | None = None
    """Ids of the models that it may use; None: all."""
    is_admin: bool = True
    """May see what concerns everybody."""

    def may_use(self, model_id: str) -> bool:
        """Whether this model exists for the caller."""
        return self.models is None or model_id in self.models


NOBODY = Caller(models=frozenset(), is_admin=False)
"""Who asks without a key for what needs none."""


def caller_of(request: Request) -> Caller:
    """Who sent the request."""
    caller = request.state.caller
    assert isinstance(caller, Caller)
    return caller


def is_still_caller(request: Request) -> bool:
    """Whether the key of a request that goes on and on is, and may do, what it was and might at its beginning."""
    return bool(request.state.ask_again() == caller_of(request))


def check_admin(request: Request) -> None:
    """Raises `HttpError` (403) for a key that may only use models."""
    if not caller_of(request).is_admin:
        raise HttpError(403, "This needs a key with admin rights.", "admin_only", type="permission_error")
