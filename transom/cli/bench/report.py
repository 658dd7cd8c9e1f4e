"""What a benchmark found, as plain data: for the table, the plot and JSON. Measures nothing, prints nothing."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Tiers(StrEnum):
    """Where keys and values may lie."""

    RAM = "ram"
    RAM_AND_SSD = "ram+ssd"


@dataclass(frozen=True, slots=True)
class Machine:
    """What the figures belong to."""

    processor: str
    num_cores: int
    """That this process may use."""
    num_threads: int
    instruction_set: str
    ram_bytes: int
    memory_bytes_per_second: float
    """Measured in the same run, with the same threads."""
    system: str


@dataclass(frozen=True, slots=True)
class BenchedModel:
    """What was measured."""

    id: str
    dtype: str
    """Of the weights."""
    num_parameters: int
    weights_bytes: int
    context_window: int
    kv_dtype: str
    kv_bytes_per_token: int


@dataclass(frozen=True, slots=True)
class Rate:
    """Tokens per second, round by round."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Of the rounds."""
        return statistics.median(self.rounds)

    def as_json(self) -> dict[str, Any]:
        """The median first: it is what counts."""
        return {"median": round(self.median, 3), "rounds": [round(rate, 3) for rate in self.rounds]}


@dataclass(frozen=True, slots=True)
class Point:
    """One depth of one series."""

    tiers: Tiers
    strategy: str
    depth: int
    """Tokens before those of the timed prefill."""
    prefill: Rate
    decode: Rate
    decode_depth: int
    """Tokens before the first one of the timed decode."""
    num_forgotten_tokens: int
    """Of these, by the cache strategy."""
    decode_limit: float | None
    """Tokens per second if nothing but reading weights and keys and values took time; None where that is not known."""

    @property
    def share_of_limit(self) -> float | None:
        """How near decode comes to it."""
        return None if self.decode_limit is None else self.decode.median / self.decode_limit


@dataclass(slots=True)
class Report:
    """Filled while it is measured; what is there is right at any time."""

    version: str
    date: str
    command: str
    machine: Machine
    model: BenchedModel
    num_prefill_tokens: int
    num_decode_tokens: int
    num_rounds: int
    ram_bytes: dict[Tiers, int] = field(default_factory=dict)
    """Budget of keys and values in RAM, of each side."""
    ssd_bytes: int = 0
    """Budget on SSD, of the side that has one."""
    points: list[Point] = field(default_factory=list)
    left_out_depths: tuple[int, ...] = ()
    """Default depths that would have taken too long."""

    def series(self) -> dict[tuple[Tiers, str], list[Point]]:
        """Points by tiers and strategy, each in the order of depths."""
        series: dict[tuple[Tiers, str], list[Point]] = {}
        for point in self.points:
            series.setdefault((point.tiers, point.strategy), []).append(point)
        return series

    def as_json(self) -> dict[str, Any]:
        """The whole report; rates in tokens per second, sizes in bytes."""
        plain = asdict(self)
        plain["points"] = [_point_as_json(point) for point in self.points]
        plain["ram_bytes"] = {tiers.value: size for tiers, size in self.ram_bytes.items()}
        return plain


def series_name(tiers: Tiers, strategy: str, strategies: Sequence[str]) -> str:
    """Of a line in a plot or table; the strategy is said where there are several."""
    place = "RAM" if tiers is Tiers.RAM else "RAM + SSD"
    return place if len(set(strategies)) < 2 else f"{place}, {strategy}"


def _point_as_json(point: Point) -> dict[str, Any]:
    limit = point.decode_limit
    return {
        "tiers": point.tiers.value,
        "strategy": point.strategy,
        "depth": point.depth,
        "prefill_tokens_per_second": point.prefill.as_json(),
        "decode_tokens_per_second": point.decode.as_json(),
        "decode_depth": point.decode_depth,
        "num_forgotten_tokens": point.num_forgotten_tokens,
        "decode_limit_tokens_per_second": None if limit is None else round(limit, 3),
    }
