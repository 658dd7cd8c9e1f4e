"""Budgets over all models of a registry file: whether what its entries claim fits together. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from transom.errors import ConfigError

if TYPE_CHECKING:
    from transom.config.registry_config import ModelEntry

_MIB = 2**20


def check_total_ssd(entries: Iterable[ModelEntry], max_total_ssd_mb: int | None, leftover_bytes: int = 0) -> None:
    """Raises ConfigError when the caps of all cold tiers, and what is there besides them, exceed the cap for all.

    Each model keeps to its own cap, so the sum of the caps bounds what all of them ever take.
    """
    if max_total_ssd_mb is None:
        return
    claims = {entry.id: entry.tier_config.max_ssd_mb for entry in entries if entry.tier_config.enable_tiering}
    claimed = sum(claims.values())
    if claimed * _MIB + leftover_bytes <= max_total_ssd_mb * _MIB:
        return
    named = " + ".join(f"{name} {size}" for name, size in claims.items() if size)
    problem = f"server.max_total_ssd_mb is {max_total_ssd_mb}, but the models' max_ssd_mb come to {claimed} ({named})"
    if leftover_bytes:
        problem += (
            f", and models without a cold tier have left {-(-leftover_bytes // _MIB)} MiB beside them: "
            "transom cache stats shows that, transom cache purge --leftovers removes it"
        )
    raise ConfigError(problem)


def check_total_ram(
    claims: Mapping[str, int], *, pinned: Iterable[str], at_start: Iterable[str], max_total_ram_bytes: int | None
) -> None:
    """Raises ConfigError when a model could never be loaded beside the pinned ones, or those of the start together.

    `claims`: bytes of RAM by the id of the model.
    """
    if max_total_ram_bytes is None:
        return
    pinned, at_start = set(pinned), set(at_start)
    largest = max(claims, key=lambda name: (name not in pinned, claims[name]), default=None)
    groups = [
        ("the models that are loaded at start", [name for name in claims if name in at_start], "load on_demand"),
        (
            "the largest model and the pinned ones",
            [name for name in claims if name in pinned or name == largest],
            "unpin",
        ),
    ]
    for what, names, remedy in groups:
        needed = sum(claims[name] for name in names)
        if needed > max_total_ram_bytes:
            parts = " + ".join(f"{name} {-(-claims[name] // _MIB)}" for name in names)
            raise ConfigError(
                f"server.max_total_ram_mb is {max_total_ram_bytes // _MIB}, but {what} need "
                f"{-(-needed // _MIB)} ({parts}): raise it, lower max_ram_mb, or {remedy}"
            )
