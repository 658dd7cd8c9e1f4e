"""Dataclasses survive the round trip; anything that is not exactly right is refused."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transom.engine.plain_data import from_plain, to_plain
from transom.errors import ChannelError
from transom.request import TokenIds


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True, slots=True)
class Inner:
    pair: tuple[int, float]


@dataclass(frozen=True, slots=True)
class Outer:
    name: str
    flag: bool
    path: Path
    colour: Colour
    ids: tuple[int, ...]
    inner: Inner | None
    maybe_ids: tuple[int, ...] | None
    biases: dict[int, float]
    fields: dict[str, str | int | float | None]
    several: tuple[Inner | None, ...]


EXAMPLE = Outer(
    name="n",
    flag=True,
    path=Path("a/b"),
    colour=Colour.RED,
    ids=(1, 2),
    inner=Inner((1, 0.5)),
    maybe_ids=None,
    biases={3: -1.0},
    fields={"a": None, "b": 2, "c": 0.5, "d": "x"},
    several=(None, Inner((2, 1.0))),
)


def round_trip(value: Outer) -> Outer:
    return from_plain(Outer, msgpack.unpackb(msgpack.packb(to_plain(value)), strict_map_key=False))


@pytest.mark.parametrize("value", [(), (0, -1, 2**31 - 1), range(1000)])
def test_token_ids_travel_packed(value: Sequence[int]) -> None:
    plain = to_plain(TokenIds(value))
    assert plain == array("i", value).tobytes()
    assert from_plain(Sequence[int], plain) == tuple(value)  # type: ignore[type-abstract]


@pytest.mark.parametrize("plain", [b"123", [1, 2], "text", None])
def test_what_is_no_packed_token_ids_is_refused(plain: object) -> None:
    with pytest.raises(ChannelError):
        from_plain(Sequence[int], plain)  # type: ignore[type-abstract]


def test_every_kind_of_field_survives_the_round_trip() -> None:
    assert round_trip(EXAMPLE) == EXAMPLE


@given(st.lists(st.integers(-(2**63), 2**64 - 1)), st.dictionaries(st.integers(0, 9), st.floats(allow_nan=False)))
def test_any_numbers_survive_the_round_trip(ids: list[int], biases: dict[int, float]) -> None:
    value = replace(EXAMPLE, ids=tuple(ids), biases=biases)
    assert round_trip(value) == value


@pytest.mark.parametrize(
    ("index", "wrong"),
    [
        (0, 1),
        (0, None),
        (1, 1),
        (2, 5),
        (3, "blue"),
        (3, 3),
        (4, [1, "2"]),
        (4, [True]),
        (4, 7),
        (5, [[1, 2.0, 3]]),
        (5, [[1]]),
        (5, 0),
        (7, [[1, 2]]),
        (7, {"x": 1.0}),
        (8, {"a": [1]}),
        (9, [[["1", 1.0]]]),
    ],
)
def test_a_wrong_value_in_any_field_is_refused(index: int, wrong: object) -> None:
    plain = to_plain(EXAMPLE)
    plain[index] = wrong
    with pytest.raises(ChannelError):
        from_plain(Outer, plain)


@pytest.mark.parametrize("wrong", [None, [], {}, 3, "x", [1] * 11])
def test_a_dataclass_of_the_wrong_shape_is_refused(wrong: object) -> None:
    with pytest.raises(ChannelError):
        from_plain(Outer, wrong)


def test_an_integer_may_stand_for_a_float_but_a_boolean_may_not() -> None:
    assert from_plain(Inner, [[1, 2]]) == Inner((1, 2))
    with pytest.raises(ChannelError):
        from_plain(Inner, [[True, 2.0]])


def test_objects_without_a_plain_form_do_not_cross() -> None:
    with pytest.raises(ChannelError, match="object"):
        to_plain(object())


def test_types_without_a_plain_form_are_our_own_mistake() -> None:
    with pytest.raises(TypeError):
        from_plain(set, [])
