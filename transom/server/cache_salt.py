"""Who shares cached prefixes with whom: the salt of a request's cache keys. Made here, never taken from a caller.

It is the tenant's name, and behind a NUL, which no name holds, the digest of what the request says to share with fewer:
OpenAI's `prompt_cache_key` and vLLM's `cache_salt`. Whatever these say, the salt of another tenant does not come of it.
"""

from __future__ import annotations

import hashlib
from typing import Protocol

from transom.server.caller import Caller

_SEPARATOR = "\0"
_LENGTH_BYTES = 8


class Narrowing(Protocol):
    """The fields of a body that only narrow."""

    @property
    def prompt_cache_key(self) -> str | None: ...
    @property
    def cache_salt(self) -> str | None: ...


def salt_of(caller: Caller, body: Narrowing) -> str:
    """The salt of a request."""
    if body.prompt_cache_key is None and body.cache_salt is None:
        return caller.tenant
    return caller.tenant + _SEPARATOR + _digest(body.prompt_cache_key, body.cache_salt)


def _digest(*fields: str | None) -> str:
    """Of the fields, each behind its length; an absent one is another than an empty one."""
    digest = hashlib.sha256()
    for field in fields:
        data = b"" if field is None else b"=" + field.encode()
        digest.update(len(data).to_bytes(_LENGTH_BYTES, "little") + data)
    return digest.hexdigest()
