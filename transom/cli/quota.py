"""`transom quota`: what the keys have used, from the database that the server writes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from transom.cli.banner import wide_console
from transom.cli.tables import plain_table
from transom.config.registry_config import RegistryConfig
from transom.errors import ConfigError
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
    uses = [use for use in ledger.uses() if use.used and key in (None, use.caller)]
    if as_json:
        print(json.dumps([asdict(use) for use in uses], indent=2))
    else:
        _show_table(uses)


def _show_table(uses: Iterable[Use]) -> None:
    table = plain_table("KEY", "QUOTA OF", "LIMIT", "USED", "OF", "ALL FREE IN")
    for use in uses:
        numbers = (str(use.used), f"{use.most:.10g}", duration_text(use.idle_in_seconds))
        table.add_row(use.caller or _NO_KEY, use.scope, use.limit, *numbers)
    if table.row_count:
        wide_console().print(table)
    else:
        print("Nothing is used.")
