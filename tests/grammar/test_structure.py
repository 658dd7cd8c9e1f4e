"""What callers prescribe, and the bounds that are checked before anybody works on it."""

from __future__ import annotations

from typing import Any

import pytest

from transom.grammar.structure import MAX_DEPTH, MAX_SOURCE_BYTES, Structure


def nested(levels: int) -> Any:
    schema: Any = True
    for _ in range(levels):
        schema = {"items": schema}
    return schema


def test_equal_forms_are_equal_whoever_made_them() -> None:
    assert Structure.json_object() == Structure.json_schema({"type": "object"})
    assert Structure.regex("a") != Structure.grammar("a")


def test_a_schema_keeps_the_order_of_its_properties() -> None:
    assert (
        Structure.json_schema({"properties": {"b": True, "a": True}}).source == '{"properties": {"b": true, "a": true}}'
    )


def test_s05_a_schema_deeper_than_the_limit_is_refused() -> None:
    Structure.json_schema(nested(MAX_DEPTH))
    with pytest.raises(ValueError, match="deeper than 32"):
        Structure.json_schema(nested(MAX_DEPTH + 1))
    with pytest.raises(ValueError, match="deeper than 32"):
        Structure.json_schema(nested(100_000))


def test_s05_a_source_larger_than_the_limit_is_refused() -> None:
    Structure.regex("a" * MAX_SOURCE_BYTES)
    for make in (Structure.regex, Structure.grammar):
        with pytest.raises(ValueError, match="65536 are allowed"):
            make("ü" * (MAX_SOURCE_BYTES // 2) + "a")


@pytest.mark.parametrize("schema", [None, 1, "x", []])
def test_a_schema_is_an_object_or_a_boolean(schema: Any) -> None:
    with pytest.raises(ValueError, match="is an object"):
        Structure.json_schema(schema)


def test_the_schema_false_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="nothing satisfies"):
        Structure.json_schema(False)


@pytest.mark.parametrize("choices", [[], [""], ["a", ""]])
def test_choices_are_texts_that_are_not_empty(choices: list[str]) -> None:
    with pytest.raises(ValueError, match="choices"):
        Structure.choice(choices)
