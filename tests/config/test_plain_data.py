"""Dataclasses over the channel."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import pytest

from transom.config.plain_data import from_plain, to_plain
from transom.errors import ConfigError


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True)
class Inner:
    share: float


@dataclass(frozen=True, slots=True)
class Outer:
    path: Path
    colours: tuple[Colour, ...]
    inner: Inner
    count: int | None = None


OUTER = Outer(Path("a/b"), (Colour.RED, Colour.BLUE), Inner(0.5), 3)
PLAIN = {"path": "a/b", "colours": ["red", "blue"], "inner": {"share": 0.5}, "count": 3}


def test_there_and_back_is_the_same() -> None:
    assert to_plain(OUTER) == PLAIN
    assert from_plain(Outer, PLAIN) == OUTER
    assert from_plain(Outer, {**PLAIN, "count": None}).count is None


@pytest.mark.parametrize(
    "plain",
    [
        None,
        [],
        {},
        {**PLAIN, "more": 1},
        {key: PLAIN[key] for key in PLAIN if key != "count"},
        {**PLAIN, "count": True},
        {**PLAIN, "count": 3.0},
        {**PLAIN, "path": 3},
        {**PLAIN, "colours": "red"},
        {**PLAIN, "colours": ["green"]},
        {**PLAIN, "inner": {"share": 1}},
        {**PLAIN, "inner": {"share": None}},
    ],
)
def test_anything_else_is_refused(plain: object) -> None:
    with pytest.raises(ConfigError, match=r"Outer|Inner"):
        from_plain(Outer, plain)
