"""Budgets over all models: exact sums, and errors with all the numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from transom.config.registry_config import ModelEntry
from transom.config.total_budgets import check_total_ram, check_total_ssd
from transom.errors import ConfigError

MIB = 2**20


def cold(name: str, max_ssd_mb: int, *, enable_tiering: bool = True) -> ModelEntry:
    tiers = {"max_ssd_mb": max_ssd_mb, "ssd_path": Path("cold"), "enable_tiering": enable_tiering}
    return ModelEntry.for_path(Path("tiny"), id=name, tier_config=tiers)


def test_the_caps_of_cold_tiers_may_come_to_the_whole_budget_and_not_more() -> None:
    entries = [cold("a", 60), cold("b", 40), cold("c", 1000, enable_tiering=False)]
    check_total_ssd(entries, 100)
    check_total_ssd(entries, None)
    with pytest.raises(ConfigError, match=r"max_total_ssd_mb is 99, .* come to 100 \(a 60 \+ b 40\)$"):
        check_total_ssd(entries, 99)


def test_what_removed_models_have_left_counts_to_the_byte() -> None:
    check_total_ssd([cold("a", 60)], 61, leftover_bytes=MIB)
    with pytest.raises(ConfigError, match=r"have left 2 MiB beside them: .* purge --leftovers removes it"):
        check_total_ssd([cold("a", 60)], 61, leftover_bytes=MIB + 1)


def test_models_of_the_start_fit_together_and_every_other_one_beside_the_pinned_ones() -> None:
    claims = {"a": 4 * MIB, "b": 3 * MIB, "c": 5 * MIB}
    check_total_ram(claims, pinned=["a"], at_start=["a", "b"], max_total_ram_bytes=9 * MIB)
    check_total_ram(claims, pinned=["a"], at_start=["a", "b", "c"], max_total_ram_bytes=None)
    check_total_ram({}, pinned=[], at_start=[], max_total_ram_bytes=MIB)
    with pytest.raises(
        ConfigError, match=r"is 8, but the largest model and the pinned ones need 9 \(a 4 \+ c 5\): .* or unpin$"
    ):
        check_total_ram(claims, pinned=["a"], at_start=["a", "b"], max_total_ram_bytes=8 * MIB)
    with pytest.raises(
        ConfigError, match=r"is 9, but the models that are loaded at start need 12 .* or load on_demand$"
    ):
        check_total_ram(claims, pinned=["a"], at_start=["a", "b", "c"], max_total_ram_bytes=9 * MIB)
