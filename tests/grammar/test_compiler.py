"""From prescribed forms to grammars: what can be had, what is refused and why, and what no grammar can break."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.grammar.random_schemas import random_schema
from tests.grammar.small_vocabulary import VOCABULARY, matcher_of, write
from transom.errors import RequestError
from transom.grammar.compiler import MAX_REMEMBERED, GrammarCompiler
from transom.grammar.structure import Structure


@pytest.fixture(scope="module")
def compiler() -> Iterator[GrammarCompiler]:
    compiler = GrammarCompiler(lambda: VOCABULARY)
    yield compiler
    compiler.close()


def texts(compiler: GrammarCompiler, structure: Structure, count: int = 8) -> list[str]:
    """Random texts of the form, all complete."""
    grammar = compiler.compile(structure, "grammar")
    written = [write(matcher_of(grammar.source), seed, max_tokens=3000) for seed in range(count)]
    assert all(is_complete for _, is_complete in written)
    return [text.decode() for text, _ in written]


def refusal(compiler: GrammarCompiler, structure: Structure) -> str:
    with pytest.raises(RequestError) as caught:
        compiler.compile(structure, "response_format")
    assert (caught.value.param, caught.value.code) == ("response_format", "invalid_value")
    message = str(caught.value)
    assert message.startswith("Invalid value for 'response_format': ")
    assert "\n" not in message
    assert len(message) < 400
    return message


@pytest.mark.parametrize("pattern", ["[0-9]{2,4}x?", "(ab|cd)+;", r"\d{3}-[a-z]{1,3}é", "^abc$"])
def test_a_regular_expression_is_matched_as_a_whole(compiler: GrammarCompiler, pattern: str) -> None:
    assert all(re.fullmatch(pattern, text) for text in texts(compiler, Structure.regex(pattern)))


@pytest.mark.parametrize(
    "grammar",
    ['start: "a" /[0-9]/+ "!"', 'root ::= "a" [0-9]+ "!"', 'root ::= "a" digits end\ndigits ::= [0-9]+\nend ::= "!"'],
)
def test_grammars_are_lark_or_gbnf(compiler: GrammarCompiler, grammar: str) -> None:
    assert all(re.fullmatch("a[0-9]+!", text) for text in texts(compiler, Structure.grammar(grammar)))


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8), min_size=1, max_size=5))
def test_a_choice_is_one_of_the_texts_whatever_is_in_them(compiler: GrammarCompiler, choices: list[str]) -> None:
    assert set(texts(compiler, Structure.choice(choices))) <= set(choices)


def test_a_choice_may_be_among_as_many_texts_as_fit(compiler: GrammarCompiler) -> None:
    choices = [f"no. {number}" for number in range(5000)]
    assert set(texts(compiler, Structure.choice(choices))) <= set(choices)


REFUSED: dict[str, tuple[Structure, str]] = {
    "an unsupported keyword": (Structure.json_schema({"type": "array", "uniqueItems": True}), "uniqueItems"),
    "more at once than a step may weigh": (
        Structure.json_schema({"type": "object", "properties": {f"k{i}": {"type": "string"} for i in range(2000)}}),
        "items; max is 2000",
    ),
    "an unknown type": (Structure.json_schema({"type": "foo"}), "Invalid type: foo"),
    "a remote reference": (Structure.json_schema({"$ref": "http://localhost/x"}), "retrieving it failed"),
    "a reference to a file": (Structure.json_schema({"$ref": "file:///etc/passwd"}), "retrieving it failed"),
    "a missing definition": (Structure.json_schema({"$ref": "#/$defs/a"}), "does not exist"),
    "a reference to itself": (Structure.json_schema({"$ref": "#"}), "no text"),
    "a cycle of two": (
        Structure.json_schema({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
        "no text",
    ),
    "an empty enum": (Structure.json_schema({"enum": []}), "Unsatisfiable"),
    "minimum over maximum": (Structure.json_schema({"type": "integer", "minimum": 2, "maximum": 1}), "greater"),
    "nothing at all": (Structure.json_schema({"allOf": [False]}), "Unsatisfiable"),
    "an unclosed pattern": (Structure.json_schema({"type": "string", "pattern": "(a"}), "unclosed group"),
    "an unclosed group": (Structure.regex("(a"), "unclosed group"),
    "a look-behind": (Structure.regex("(?<=a)b"), "look-around"),
    "a back-reference": (Structure.regex(r"(a)\1"), "backreferences"),
    "nothing": (Structure.regex(""), "empty text"),
    "no character": (Structure.regex(r"[^\x00-\U0010ffff]"), "no text"),
    "an undefined rule": (Structure.grammar("root ::= foo"), "'foo' not found"),
    "an undefined rule of Lark": (Structure.grammar("start: foo"), 'unknown name: "foo"'),
    "left recursion without end": (Structure.grammar('root ::= root "a"'), "no text"),
    "an unclosed class": (Structure.grammar("root ::= [a"), "Unexpected end"),
    "an empty grammar": (Structure.grammar(""), "root"),
    "an unknown special token": (Structure.grammar("start: <|nobody|>"), "unknown special token"),
    "ten thousand parentheses": (Structure.grammar(f'root ::= {"(" * 10**4}"a"{")" * 10**4}'), "nested too deeply"),
    "a million repetitions": (Structure.regex("a{1000000}"), "too much"),
    "repetitions of repetitions": (Structure.regex("((((a{100}){100}){100}){100}){100}"), "too much"),
    "a chain that breaks the stack": (
        Structure.grammar("\n".join(["start: r0", *(f"r{i}: r{i + 1}" for i in range(4000)), 'r4000: "a"'])),
        "too much time or memory",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_s05_what_cannot_be_had_is_refused_with_the_reason(compiler: GrammarCompiler, name: str) -> None:
    structure, reason = REFUSED[name]
    assert reason in refusal(compiler, structure)


def test_only_who_wrote_a_grammar_is_told_a_place_in_it(compiler: GrammarCompiler) -> None:
    assert "at 1(" in refusal(compiler, Structure.grammar("start: /(a/"))
    assert "at 1(" not in refusal(compiler, Structure.regex("(a"))


def test_s05_what_kills_the_helper_harms_nobody_else(compiler: GrammarCompiler) -> None:
    chain = "\n".join(["start: r0", *(f"r{i}: r{i + 1}" for i in range(5000)), 'r5000: "b"'])
    assert "too much" in refusal(compiler, Structure.grammar(chain))
    assert texts(compiler, Structure.regex("z{5}"), 1) == ["zzzzz"]


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*b", "foo**", "(a*)*c"])
def test_s05_patterns_that_ruin_backtracking_engines_are_ordinary(compiler: GrammarCompiler, pattern: str) -> None:
    assert compiler.compile(Structure.regex(pattern), "guided_regex").num_bytes < 2**20


SATISFIABLE: list[Any] = [
    True,
    {},
    {"type": "array", "minItems": 10**9},
    {"type": "string", "maxLength": 2**31},
    {"enum": [f"v{number}" for number in range(5000)]},
    {
        "anyOf": [
            {"type": "object", "properties": {f"p{i}": {"type": "string", "pattern": "^(a|b)+$"}}} for i in range(99)
        ]
    },
]


@pytest.mark.parametrize("schema", SATISFIABLE, ids=range(len(SATISFIABLE)))
def test_s05_large_numbers_in_a_schema_cost_little(compiler: GrammarCompiler, schema: Any) -> None:
    assert compiler.compile(Structure.json_schema(schema), "json_schema").num_bytes < 8 * 2**20


def test_random_texts_of_random_schemas_are_valid(compiler: GrammarCompiler) -> None:
    for seed in range(60):
        schema = random_schema(seed)
        for text in texts(compiler, Structure.json_schema(schema), 2):
            jsonschema.validate(json.loads(text), schema)


def test_outcomes_are_remembered_and_no_more_than_a_number_of_them() -> None:
    compiler = GrammarCompiler(lambda: VOCABULARY)
    first, bad = Structure.regex("first"), Structure.regex("(")
    assert not compiler.is_known(first)
    grammar = compiler.compile(first, "x")
    assert "unclosed" in refusal(compiler, bad)
    compiler.close()  # nobody is asked again
    assert compiler.compile(first, "x") is grammar
    assert "unclosed" in refusal(compiler, bad)
    assert compiler.is_known(bad)
    for number in range(MAX_REMEMBERED):
        compiler.compile(Structure.regex(f"n{number}"), "x")
    assert not compiler.is_known(first)
    compiler.close()
