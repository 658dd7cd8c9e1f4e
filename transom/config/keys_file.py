"""The file of API keys: who may ask, for whom, for which models. Strict, like the registry file; also written here.

It holds no key, only the SHA-256 of each: `new_key` makes keys of 256 random bits, which no dictionary finds, so that
neither salt nor slow hash would add anything. Knows no model and no tier; `check_names` is told those of a
registry.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from transom.config.json_file import read_json_object
from transom.config.registry_config import DEFAULT_TIER, ModelId, first_repeated
from transom.config.registry_errors import describe
from transom.errors import ConfigError

__all__ = ["ApiKey", "KeysFile", "changing", "digest_of", "new_key"]

MAX_KEYS = 10_000
"""Each is compared with every request's."""

_KEY_BYTES = 32
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}\Z")
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


def _check_name(value: str) -> str:
    if not _NAME.match(value):
        raise ValueError("must be 1 to 64 of A-Z a-z 0-9 . _ @ - and begin with a letter or digit")
    return value


Name = Annotated[str, AfterValidator(_check_name)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


class ApiKey(_Part):
    """One key. Two keys of one tenant share cached prefixes; each has a quota of its own."""

    name: Name
    """Which key it is, in logs and in the account of quotas; unique."""
    sha256: str
    """SHA-256 of the key, in lower-case hexadecimal."""
    tenant: Name
    """Whose key it is. Cached prefixes are never shared between tenants."""
    tier: Annotated[str, StringConstraints(min_length=1, max_length=64)] = DEFAULT_TIER
    """Which of the registry's `quota_tiers` holds for it; `default` need not be there: no limits then."""
    models: Annotated[tuple[ModelId, ...], Field(strict=False)] | None = None
    """Ids of the models that it may use; all others do not exist for it. null: all."""
    admin: bool = False
    """Whether it may see what concerns everybody: /metrics, and where each model's KV is."""

    @model_validator(mode="after")
    def _check_digest(self) -> Self:
        """Not a validator of the field, whose message would show a key that somebody put there."""
        if not _DIGEST.match(self.sha256):
            raise ValueError("sha256 must be the SHA-256 of a key, 64 of 0-9 a-f (not the key itself)")
        return self


class KeysFile(_Part):
    """The whole file."""

    keys: Annotated[tuple[ApiKey, ...], Field(strict=False, max_length=MAX_KEYS)] = ()
    """All keys. None: nobody may ask."""

    @model_validator(mode="after")
    def _keys_differ(self) -> Self:
        if repeated := first_repeated([key.name for key in self.keys]):
            raise ValueError(f"the key name {repeated!r} is given twice")
        if repeated := first_repeated([key.sha256 for key in self.keys]):
            raise ValueError(f"the sha256 {repeated[:8]}... is given twice")
        return self

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads and checks a file that only its owner can read.

        Raises ConfigError, one line for each problem.
        """
        _check_privacy(path)
        try:
            return cls.model_validate(read_json_object(path))
        except ValidationError as error:
            raise ConfigError(describe(error, cls, str(path))) from None

    def check_names(self, models: Collection[str], tiers: Collection[str], source: Path) -> None:
        """Raises ConfigError for ids of models, and tiers, that are not known, one line for each."""
        known_models, known_tiers = set(models), {DEFAULT_TIER, *tiers}
        problems = []
        for index, key in enumerate(self.keys):
            if key.tier not in known_tiers:
                problems.append(f"keys[{index}].tier is {key.tier!r}, must be {_one_of(known_tiers)}")
            for model in sorted(set(key.models or ()) - known_models):
                problems.append(f"keys[{index}].models names {model!r}, must be {_one_of(known_models)}")
        if problems:
            raise ConfigError("\n".join(f"{source}: {problem}" for problem in problems))

    def with_key(self, key: ApiKey) -> Self:
        """The file with one more key. Raises ConfigError for a name that is taken."""
        if any(key.name == known.name for known in self.keys):
            raise ConfigError(f"there is a key named {key.name!r} already; revoke it first, or take another name")
        return self.model_copy(update={"keys": (*self.keys, key)})

    def without_key(self, name: str) -> Self:
        """The file without the key of this name. Raises ConfigError if there is none."""
        kept = tuple(key for key in self.keys if key.name != name)
        if len(kept) == len(self.keys):
            raise ConfigError(f"there is no key named {name!r}")
        return self.model_copy(update={"keys": kept})

    def write(self, path: Path) -> None:
        """Replaces the file, whole or not at all; nobody but its owner can read it. Raises OSError."""
        plain = self.model_dump(mode="json", exclude_defaults=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump({"keys": [], **plain}, file, indent=2)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def changing(path: Path) -> Iterator[KeysFile]:
    """The file as it is, an empty one if there is none, while nobody else changes it by this function."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield KeysFile.load(path) if path.exists() else KeysFile()
    finally:
        os.close(descriptor)


def new_key() -> str:
    """A key of 256 random bits, in a form that tools recognise as a secret."""
    return f"sk-{secrets.token_urlsafe(_KEY_BYTES)}"


def digest_of(key: bytes) -> bytes:
    """What a file holds of a key, as bytes."""
    return hashlib.sha256(key).digest()


def _check_privacy(path: Path) -> None:
    """A digest alone opens nothing, but whoever may write the file may let himself in, and names are nobody's business.
    Files of root are fine: services are given theirs so."""
    try:
        status = path.stat()
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such keys file; transom keys create NAME makes it") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise ConfigError(f"{path}: has mode {mode:04o}, must be for its owner alone (chmod 600 {path})")
    if status.st_uid not in (os.geteuid(), 0):
        raise ConfigError(f"{path}: belongs to user {status.st_uid}, must belong to the user who runs the server")


def _one_of(names: set[str]) -> str:
    return " or ".join(sorted(names))
