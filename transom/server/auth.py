"""Who may ask: a default-deny guard in front of every route, so that a forgotten route is a closed one. Pure ASGI."""

from __future__ import annotations

from functools import partial

from starlette.types import ASGIApp, Receive, Scope, Send

from transom.server.caller import NOBODY, Caller
from transom.server.errors import HttpError
from transom.server.key_ring import KeyRing
from transom.server.request_record import record_of

OPEN_PATHS = frozenset({"/health", "/v1/health", "/health/live", "/health/ready", "/ready"})
"""What an orchestrator asks without a key. Exact spellings only."""

_Headers = list[tuple[bytes, bytes]]


class RequireKey:
    """Answers 401 to everything but the health routes and `open_paths` unless the request carries an accepted key.

    Leaves the `Caller` in the request's state, and how to ask again whose the key is.
    """

    def __init__(self, app: ASGIApp, keys: KeyRing, open_paths: frozenset[str] = frozenset()) -> None:
        self._app = app
        self._keys = keys
        self._open_paths = OPEN_PATHS | open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            caller = self._caller(scope)
            if caller is None:
                raise HttpError(
                    401,
                    "A valid API key is needed, as 'Authorization: Bearer KEY' or 'X-Api-Key: KEY'.",
                    "invalid_api_key",
                    headers={"www-authenticate": "Bearer"},
                )
            scope["state"]["caller"] = caller
            scope["state"]["ask_again"] = partial(self._caller, scope)
            record_of(scope).tenant = caller.tenant
        await self._app(scope, receive, send)

    def _caller(self, scope: Scope) -> Caller | None:
        """None when the request must not pass. A key that is given twice must be the same."""
        if self._keys.is_open:
            return Caller()
        callers = {self._keys.caller(key) for key in _given_keys(scope["headers"])}
        caller = callers.pop() if len(callers) == 1 else None
        is_open = scope["path"] in self._open_paths and scope["type"] == "http"
        return NOBODY if caller is None and is_open else caller


def _given_keys(headers: _Headers) -> list[bytes]:
    """All keys of a request; a malformed Authorization header counts as a wrong one."""
    bearers = [_bearer_key(value) for name, value in headers if name == b"authorization"]
    return [*bearers, *(value.strip() for name, value in headers if name == b"x-api-key")]


def _bearer_key(value: bytes) -> bytes:
    scheme, _, key = value.strip().partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else b""
