"""What the command line asks of a benchmark, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transom.request import CacheStrategy


@dataclass(frozen=True, slots=True)
class BenchSettings:
    """None: as `plan.py` chooses."""

    depths: tuple[int, ...] | None = None
    strategies: tuple[CacheStrategy, ...] = (CacheStrategy.FULL,)
    num_prefill_tokens: int | None = None
    num_decode_tokens: int | None = None
    num_rounds: int = 3
    ram_bytes: int | None = None
    """For keys and values in RAM, where there is SSD beside it; None: a quarter of what the deepest point takes."""
    ssd_bytes: int = 0
    """0: RAM alone is measured."""
    ssd_path: Path | None = None
    """A directory of its own is made in it, and removed; None: /var/tmp."""
    as_json: bool = False
    json_path: Path | None = None
    plot_path: Path | None = None
