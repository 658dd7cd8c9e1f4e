"""Names for the beginnings of sequences: a chain of SHA-256 over whole blocks. Owns the bytes that are hashed.

Two beginnings have one key exactly when they hold the same tokens, of the same model computed by the same rules, under
the same salt. Every field is hashed behind its length, so no choice of salt or tokens makes one chain look like
another. Isolation of tenants rests on the digest, so nothing of it is cut off.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from transom.cache.block import BLOCK_SIZE

__all__ = ["KEY_BYTES", "PREFIX_FORMAT", "KeyChain", "KnownTokens", "next_key", "root_key", "tenant_tag"]

PREFIX_FORMAT = 1
"""Version of how keys are made. Another one finds nothing of this one."""

KEY_BYTES = 32

_LENGTH_BYTES = 8
_SALT_SEPARATOR = "\0"


class KnownTokens(Protocol):
    """The tokens of a sequence, which may grow."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: slice, /) -> Any: ...


def root_key(fingerprint: bytes, salt: str = "") -> bytes:
    """Where the chains begin of everything that may share KV: one model (its `fingerprint`), one salt."""
    return _digest(b"transom prefix", str(PREFIX_FORMAT).encode(), fingerprint, salt.encode())


def next_key(parent: bytes, token_ids: Sequence[int] | NDArray[np.int32]) -> bytes:
    """The key of a chain that goes on with these tokens, a whole block. ValueError for any other number of them."""
    tokens = np.ascontiguousarray(token_ids, "<i4")
    if len(tokens) != BLOCK_SIZE:
        raise ValueError(f"a key is made of {BLOCK_SIZE} tokens, not {len(tokens)}")
    return _digest(parent, tokens.tobytes())


def tenant_tag(salt: str) -> bytes:
    """Whose data it is, for whoever removes all of one tenant's: of the salt up to its first NUL.

    What follows the NUL narrows who shares with whom within a tenant.
    """
    return _digest(b"transom tenant", salt.partition(_SALT_SEPARATOR)[0].encode())


class KeyChain:
    """The keys of one sequence, made as they are asked for."""

    __slots__ = ("_keys", "_tokens", "salt")

    def __init__(self, fingerprint: bytes, salt: str, tokens: KnownTokens) -> None:
        self.salt = salt
        self._tokens = tokens
        self._keys = [root_key(fingerprint, salt)]

    @property
    def num_blocks(self) -> int:
        """Whole blocks of tokens that are known so far."""
        return len(self._tokens) // BLOCK_SIZE

    def key(self, index: int) -> bytes:
        """Of the chain up to block `index`, that block included; -1 is the root. The block's tokens must be known."""
        while len(self._keys) <= index + 1:
            start = (len(self._keys) - 1) * BLOCK_SIZE
            self._keys.append(next_key(self._keys[-1], self._tokens[start : start + BLOCK_SIZE]))
        return self._keys[index + 1]


def _digest(*fields: bytes) -> bytes:
    digest = hashlib.sha256()
    for field in fields:
        digest.update(len(field).to_bytes(_LENGTH_BYTES, "little"))
        digest.update(field)
    return digest.digest()
