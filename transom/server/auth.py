"""Who may ask: a default-deny guard in front of every route, so that a forgotten route is a closed one. Pure ASGI."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from transom.server.errors import HttpError

OPEN_PATHS = frozenset({"/health", "/v1/health", "/health/live", "/health/ready", "/ready"})
"""What an orchestrator asks without a key. Exact spellings only."""

_Headers = list[tuple[bytes, bytes]]


class KeyRing:
    """The accepted keys, kept as digests; an empty ring accepts everybody."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = tuple(hashlib.sha256(key.encode()).digest() for key in keys)

    @property
    def is_empty(self) -> bool:
        """No key is needed."""
        return not self._digests

    def accepts(self, key: bytes) -> bool:
        """Compares with every key in constant time, so that neither prefix nor position leaks."""
        digest = hashlib.sha256(key).digest()
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return any(matches)


class RequireKey:
    """Answers 401 to everything but the health routes unless the request carries an accepted key."""

    def __init__(self, app: ASGIApp, keys: KeyRing) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan" and not self._may_pass(scope):
            raise HttpError(
                401,
                "A valid API key is needed, as 'Authorization: Bearer KEY' or 'X-Api-Key: KEY'.",
                "invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )
        await self._app(scope, receive, send)

    def _may_pass(self, scope: Scope) -> bool:
        if self._keys.is_empty or (scope["path"] in OPEN_PATHS and scope["type"] == "http"):
            return True
        given = _given_keys(scope["headers"])
        return bool(given) and all(self._keys.accepts(key) for key in given)


def _given_keys(headers: _Headers) -> list[bytes]:
    """All keys of a request; a malformed Authorization header counts as a wrong one."""
    bearers = [_bearer_key(value) for name, value in headers if name == b"authorization"]
    return [*bearers, *(value.strip() for name, value in headers if name == b"x-api-key")]


def _bearer_key(value: bytes) -> bytes:
    scheme, _, key = value.strip().partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else b""
