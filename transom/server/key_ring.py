"""The accepted keys, as digests, and whose they are. Owns the rereading of the keys file. Knows no HTTP."""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from transom.config.keys_file import ApiKey, KeysFile, digest_of
from transom.errors import ConfigError
from transom.server.caller import Caller

CHECK_INTERVAL_SECONDS = 1.0
"""A changed file is noticed so soon."""

_log = logging.getLogger("transom.server")
_Signature = tuple[int, int, int, int] | None
_Check = Callable[[KeysFile], None]


class FileKeys:
    """The keys of a file. A file that goes bad while the server runs changes nothing but the log.

    `check` raises ConfigError for a file that does not fit the served models; `clock` counts seconds.
    """

    def __init__(self, path: Path, check: _Check, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._check = check
        self._clock = clock
        self._looked_at = clock()
        self._signature = _signature(path)
        self._known = self._read()

    def known(self) -> tuple[tuple[bytes, Caller], ...]:
        """Digest and owner of every key, as of a second ago at most. Reads the file when that has changed."""
        if self._clock() - self._looked_at >= CHECK_INTERVAL_SECONDS:
            self._looked_at = self._clock()
            self._reread_if_changed()
        return self._known

    def _reread_if_changed(self) -> None:
        signature = _signature(self._path)
        if signature == self._signature:
            return
        self._signature = signature
        try:
            self._known = self._read()
        except ConfigError as error:
            reasons = "; ".join(str(error).splitlines())
            _log.error("the changed keys file is not used, the keys from before stay valid: %s", reasons)
        else:
            _log.warning("%s was read again: %d keys", self._path, len(self._known))

    def _read(self) -> tuple[tuple[bytes, Caller], ...]:
        file = KeysFile.load(self._path)
        self._check(file)
        return tuple((bytes.fromhex(key.sha256), _caller(key)) for key in file.keys)


class KeyRing:
    """All accepted keys: those of the command line, which are the operator's, and those of a file."""

    def __init__(self, keys: Iterable[str] = (), file: FileKeys | None = None) -> None:
        self._own = tuple(
            (digest_of(key.encode()), Caller(name=f"--api-key {number}")) for number, key in enumerate(keys, 1)
        )
        self._file = file

    @property
    def is_open(self) -> bool:
        """No key is needed."""
        return not self._own and self._file is None

    def caller(self, key: bytes) -> Caller | None:
        """Whose key it is, None for a wrong one.

        Compares with every key in constant time, so that neither prefix nor position leaks.
        """
        digest = digest_of(key)
        known = self._own if self._file is None else self._own + self._file.known()
        owners = [owner for accepted, owner in known if hmac.compare_digest(digest, accepted)]
        return owners[0] if owners else None


def _caller(key: ApiKey) -> Caller:
    return Caller(
        name=key.name,
        tenant=key.tenant,
        tier=key.tier,
        models=None if key.models is None else frozenset(key.models),
        is_admin=key.admin,
    )


def _signature(path: Path) -> _Signature:
    """Differs when the file was changed or replaced; None when there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino
