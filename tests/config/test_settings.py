"""Typed reading of one settings object."""

from __future__ import annotations

import math
from typing import Any

import pytest

from transom.config.settings import Settings
from transom.errors import ConfigError


def settings(**values: Any) -> Settings:
    return Settings("config.json", values)


@pytest.mark.parametrize("value", [True, 1.0, "1", None, [1], {}, 0, 5, -1, 2**64, math.nan])
def test_an_integer_is_an_integer_within_its_bounds(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^config\.json: size is .*, must be an integer from 1 to 4$"):
        settings(size=value).integer("size", low=1, high=4)


@pytest.mark.parametrize("value", [True, "1", None, [1], math.nan, math.inf, -math.inf, 0.0, -1, 2.5, 10**400])
def test_a_number_is_finite_and_within_its_bounds(value: object) -> None:
    with pytest.raises(ConfigError, match=r"must be a finite number greater than 0 and at most 2"):
        settings(share=value).number("share", above=0.0, up_to=2.0)


def test_an_integer_is_a_number() -> None:
    number = settings(share=2).number("share")
    assert number == 2.0
    assert type(number) is float


@pytest.mark.parametrize("value", [0, 1, "true", None])
def test_a_flag_is_true_or_false(value: object) -> None:
    with pytest.raises(ConfigError, match="must be true or false"):
        settings(flag=value).boolean("flag", False)


@pytest.mark.parametrize("value", [3, None, ["a"]])
def test_a_text_is_a_string(value: object) -> None:
    with pytest.raises(ConfigError, match="must be a string"):
        settings(name=value).text("name")


@pytest.mark.parametrize("value", ["a", [1], {"a": 1}])
def test_a_list_of_strings_holds_strings(value: object) -> None:
    with pytest.raises(ConfigError, match="must be a list of strings"):
        settings(names=value).strings("names")


def test_an_absent_key_takes_its_default_and_null_is_none_where_it_is_legal() -> None:
    assert settings().integer("size", 3, low=1, high=4) == 3
    assert settings().optional_integer("size", 3, low=1, high=4) == 3
    assert settings(size=None).optional_integer("size", 3, low=1, high=4) is None
    assert settings(share=None).optional_number("share", 0.5) == 0.5


def test_a_missing_key_without_default_is_named() -> None:
    with pytest.raises(ConfigError, match=r"config\.json: size is missing"):
        settings().integer("size", low=1, high=4)


def test_a_nested_key_is_named_by_its_path() -> None:
    section = settings(rope={"factor": "x"}).section("rope")
    assert section is not None
    with pytest.raises(ConfigError, match=r'config\.json: rope\.factor is "x", must be a finite number'):
        section.number("factor")


def test_an_empty_section_counts_as_absent_and_another_type_is_refused() -> None:
    assert settings(rope={}).section("rope") is None
    with pytest.raises(ConfigError, match="must be an object"):
        settings(rope=[]).section("rope")


def test_a_long_value_is_shown_shortened() -> None:
    with pytest.raises(ConfigError) as caught:
        settings(size="x" * 10_000).integer("size", low=1, high=4)
    assert len(str(caught.value)) < 200
