"""`fingerprint`: a digest of what weight files hold, and the memory that spares hashing them again. Knows no tensors.

Two models have one fingerprint exactly when their files hold the same bytes in the same order of names, wherever they
lie. What is remembered of a file is believed as long as the system says that the file is the same and unchanged.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from transom.weights.mapped_file import MappedFile

__all__ = ["fingerprint"]

_VERSION = 1
_PIECE_BYTES = 2**24
"""Pieces are hashed side by side, so this is part of what a digest means."""
_SETTLED_NS = 2 * 10**9
"""A file that was changed so shortly ago could be changed again within the same tick of the file system's clock."""


def fingerprint(
    files: Sequence[MappedFile],
    remembered: bytes | None,
    *,
    num_threads: int,
    now_ns: Callable[[], int] = time.time_ns,
) -> tuple[bytes, bytes]:
    """(32 bytes, what to remember for the next time). Reads the files, as far as they are not remembered.

    `remembered` may be anything. Raises WeightsError when a file is written to meanwhile; gives the RAM behind what it
    read back to the system. Hashing releases the GIL.
    """
    known = _known_digests(remembered)
    digests = [known.get(_stamp(file)) or _digest(file, num_threads) for file in files]
    settled = [
        (file, digest)
        for file, digest in zip(files, digests, strict=True)
        if max(file.modified_ns, file.changed_ns) + _SETTLED_NS <= now_ns()
    ]
    return _hash(digests), _to_remember(settled)


def _digest(file: MappedFile, num_threads: int) -> bytes:
    """Of one file's length and bytes."""
    starts = range(0, file.num_bytes, _PIECE_BYTES)
    with ThreadPoolExecutor(num_threads) as threads:
        pieces = threads.map(lambda start: _piece_digest(file, start), starts)
        return _hash([file.num_bytes.to_bytes(8, "little"), *pieces])


def _piece_digest(file: MappedFile, start: int) -> bytes:
    end = min(start + _PIECE_BYTES, file.num_bytes)
    with memoryview(file.mapping) as content, content[start:end] as piece:
        digest = hashlib.sha256(piece).digest()
    file.release(start, end)
    return digest


def _hash(parts: Iterable[bytes]) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


def _stamp(file: MappedFile) -> tuple[int, ...]:
    return *file.identity, file.num_bytes, file.modified_ns, file.changed_ns


def _to_remember(digests: Iterable[tuple[MappedFile, bytes]]) -> bytes:
    files = [[*_stamp(file), digest.hex()] for file, digest in digests]
    return json.dumps({"version": _VERSION, "files": files, "check": _check(files)}).encode() + b"\n"


def _known_digests(remembered: bytes | None) -> dict[tuple[int, ...], bytes]:
    """By stamp; nothing where it is damaged."""
    try:
        data = json.loads(remembered or b"")
        files = data["files"]
        if data["version"] != _VERSION or data["check"] != _check(files):
            return {}
        return {tuple(stamp): bytes.fromhex(digest) for *stamp, digest in files}
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}


def _check(files: Any) -> str:
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()
