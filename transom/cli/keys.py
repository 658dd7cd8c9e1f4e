"""`transom keys create | list | revoke`: what the commands do to a keys file, and what they print."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from transom.cli.banner import wide_console
from transom.cli.failure import say
from transom.cli.tables import plain_table
from transom.config.keys_file import ApiKey, KeysFile, changing, digest_of, new_key
from transom.config.registry_config import DEFAULT_TIER, RegistryConfig
from transom.config.registry_errors import describe
from transom.errors import ConfigError


@dataclass(frozen=True, slots=True)
class KeysPlace:
    """A keys file, and the registry it belongs to where that is known."""

    path: Path
    registry: RegistryConfig | None

    def check(self, keys: KeysFile) -> None:
        """Raises ConfigError for models and tiers that the registry does not have."""
        if self.registry is not None:
            models = [entry.id for entry in self.registry.models]
            keys.check_names(models, self.registry.quota_tiers, self.path)


@dataclass(frozen=True, slots=True)
class KeyChoice:
    """What a new key is to allow; `models` None: all, `tier` None: the default one."""

    name: str
    tenant: str
    tier: str | None
    models: tuple[str, ...] | None
    admin: bool


def keys_place(file: Path | None, config: Path | None) -> KeysPlace:
    """The file that is named, or else the registry's. Raises ConfigError when neither is given."""
    registry = None if config is None else RegistryConfig.load(config)
    if file is not None:
        return KeysPlace(file.expanduser(), registry)
    if registry is None:
        raise ConfigError(
            "which keys file? Name it by --file, or a registry file that has server.api_keys_file by --config"
        )
    if registry.server.api_keys_file is None:
        raise ConfigError(f"{config}: server.api_keys_file is null; name the keys file there, or by --file")
    return KeysPlace(registry.server.api_keys_file, registry)


def create_key(place: KeysPlace, choice: KeyChoice) -> None:
    """Prints the new key alone on standard output, so that it can go straight to where it is needed."""
    key = new_key()
    entry = _entry(choice, digest_of(key.encode()).hex())
    with changing(place.path) as keys:
        changed = keys.with_key(entry)
        place.check(changed)
        changed.write(place.path)
    say(f"key {entry.name!r} of tenant {entry.tenant!r} is in {place.path}; this is shown only once:")
    print(key)


def list_keys(place: KeysPlace, *, as_json: bool) -> None:
    """All keys, in the order of the file."""
    keys = KeysFile.load(place.path).keys
    if as_json:
        print(json.dumps([key.model_dump(mode="json") for key in keys], indent=2))
        return
    table = plain_table("NAME", "TENANT", "TIER", "MODELS", "ADMIN", "SHA-256")
    for key in keys:
        models = "all" if key.models is None else ", ".join(key.models) or "none"
        table.add_row(key.name, key.tenant, key.tier, models, "yes" if key.admin else "no", f"{key.sha256[:12]}...")
    wide_console().print(table)


def revoke_key(place: KeysPlace, name: str) -> None:
    """Raises ConfigError when there is no such key."""
    KeysFile.load(place.path)  # revoking makes no file
    with changing(place.path) as keys:
        keys.without_key(name).write(place.path)
    print(f"revoked {name}")


def _entry(choice: KeyChoice, digest: str) -> ApiKey:
    fields = {
        "name": choice.name,
        "sha256": digest,
        "tenant": choice.tenant,
        "tier": choice.tier or DEFAULT_TIER,
        "models": choice.models,
        "admin": choice.admin,
    }
    try:
        return ApiKey.model_validate(fields)
    except ValidationError as error:
        raise ConfigError(describe(error, ApiKey, "the key")) from None
