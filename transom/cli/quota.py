"""`transom quota`: what the keys have used: as a running server says, or else from the database that it has written."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from transom.cli.admin_client import AdminClient
from transom.cli.banner import wide_console
from transom.cli.tables import plain_table
from transom.config.registry_config import RegistryConfig
from transom.errors import ConfigError, TransomError
from transom.quotas import QuotaLedger, Quotas, ReadStore, Use, duration_text, steady_wall_clock

_NO_KEY = "(no key)"


def show_quotas(config: Path | None, key: str | None, *, as_json: bool) -> None:
    """One line for each key and limit that counts something. Raises `ConfigError`."""
    if config is None:
        raise ConfigError("which registry file? Name it by --config; it says the limits, and where their use is kept")
    registry = RegistryConfig.load(config)
    quotas, clock = Quotas.of(registry), steady_wall_clock()
    if quotas.is_empty or registry.server.state_path is None:
        raise ConfigError(f"{config}: no quotas are kept: neither quota_tiers nor resource_quota of a model say any")
    ledger = QuotaLedger(quotas, ReadStore(registry.server.state_path, clock), clock)
    all_uses = _told(registry.server.admin_socket) or ledger.uses()
    uses = [use for use in all_uses if use.used and key in (None, use.caller)]
    if as_json:
        print(json.dumps([asdict(use) for use in uses], indent=2))
    else:
        _show_table(uses)


def _told(admin_socket: Path | None) -> list[Use]:
    """By the server itself, which alone knows what its requests hold; nothing where none runs."""
    if admin_socket is None:
        return []
    try:
        return [Use(**use) for use in AdminClient(admin_socket).quotas()]
    except (TransomError, TypeError):
        return []


def _show_table(uses: Iterable[Use]) -> None:
    table = plain_table("KEY", "QUOTA OF", "LIMIT", "USED", "OF", "ALL FREE IN")
    for use in uses:
        scope = use.scope if use.model is None or use.scope == f"model {use.model}" else f"{use.scope}, {use.model}"
        idle = "-" if use.idle_in_seconds is None else duration_text(use.idle_in_seconds)
        table.add_row(use.caller or _NO_KEY, scope, use.limit, str(use.used), f"{use.most:.10g}", idle)
    if table.row_count:
        wide_console().print(table)
    else:
        print("Nothing is used.")
