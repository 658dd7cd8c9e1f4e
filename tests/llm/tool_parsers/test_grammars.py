"""The grammar of each format: whatever is written under it is read as calls that satisfy the functions' schemas."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from tests.grammar.small_vocabulary import write
from tests.llm.reading import read
from transom.errors import RequestError
from transom.grammar.compiler import GrammarCompiler
from transom.grammar.matcher import Matcher
from transom.grammar.vocabulary import Vocabulary, make_matcher, make_tokenizer
from transom.llm.chat_format import ChatFormat
from transom.llm.reasoning import ReasoningMarks
from transom.llm.tool_parsers import FORMATS, Function
from transom.llm.tool_parsers.call_grammar import said_of_function

MARKS = sorted(
    {mark for tool_format in FORMATS.values() for mark in (*tool_format.special_tokens, "<think>", "</think>")}
)
BYTES = tuple(bytes([byte]) for byte in range(256))
TOKENS = (*BYTES, *(mark.encode() for mark in MARKS))
SPECIAL = Vocabulary(TOKENS, tuple(range(256, len(TOKENS))))

WEATHER = Function(
    "get_weather",
    "The weather.",
    {
        "type": "object",
        "properties": {
            "city": {"$ref": "#/$defs/city"},
            "days": {"type": "integer", "minimum": 1, "maximum": 9},
            "units": {"enum": ["C", "F"]},
        },
        "required": ["city"],
        "additionalProperties": False,
        "$defs": {"city": {"type": "string", "minLength": 1, "maxLength": 6}},
    },
)
NOTHING = Function("stop.now", None, {"additionalProperties": False})
SCHEMAS: dict[str, Any] = {"get_weather": WEATHER.parameters, "stop.now": {"type": "object", "maxProperties": 0}}


@pytest.fixture(scope="module")
def compiler() -> Iterator[GrammarCompiler]:
    compiler = GrammarCompiler(lambda: SPECIAL)
    yield compiler
    compiler.close()


def chat_format(name: str, *, special: bool, reasons: bool = False) -> ChatFormat:
    ids = {mark: 256 + index for index, mark in enumerate(MARKS)}
    return ChatFormat(
        FORMATS[name], ReasoningMarks() if reasons else None, True, ids.get if special else lambda _: None
    )


def texts(compiler: GrammarCompiler, structure: Any, count: int) -> list[str]:
    grammar = compiler.compile(structure, "tools")
    tokenizer = make_tokenizer(SPECIAL)
    written = [
        write(Matcher(make_matcher(tokenizer, grammar.source), len(TOKENS)), seed, max_tokens=3000, tokens=TOKENS)
        for seed in range(count)
    ]
    assert all(is_complete for _, is_complete in written)
    return [text.decode() for text, _ in written]


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("name", sorted(FORMATS))
def test_what_is_written_under_the_grammar_are_valid_calls(
    compiler: GrammarCompiler, name: str, special: bool, parallel: bool
) -> None:
    answers = chat_format(name, special=special)
    structure = answers.calls([WEATHER, NOTHING], reasons=True, is_reasoning_open=False, parallel=parallel)
    seen: set[str] = set()
    for text in texts(compiler, structure, 12):
        answer = read(FORMATS[name].parser(SCHEMAS), text)
        assert answer.calls, text
        assert answer.num_complete == len(answer.calls)
        assert answer.content == ""
        assert parallel or len(answer.calls) == 1
        for called, arguments in answer.calls:
            jsonschema.validate(json.loads(arguments), SCHEMAS[called])
            seen.add(called)
    assert seen == set(SCHEMAS)


CALL = '<tool_call>\n{"name": "stop.now", "arguments": {}}\n</tool_call>'


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize(
    ("is_open", "text", "is_complete"),
    [
        (False, CALL, True),
        (False, f"<think>hm < 3</think>{CALL}", True),
        (False, f'<think>\n{{"name": 1}}\n</think>\n\n{CALL}', True),
        (False, f"<think>{CALL}", False),
        (True, f"hm</think>\n{CALL}", True),
        (True, CALL, False),
    ],
)
def test_reasoning_may_come_before_required_calls_and_is_closed_where_it_was_opened(
    compiler: GrammarCompiler, special: bool, is_open: bool, text: str, is_complete: bool
) -> None:
    answers = chat_format("hermes", special=special, reasons=True)
    structure = answers.calls([NOTHING], reasons=True, is_reasoning_open=is_open, parallel=False)
    grammar = compiler.compile(structure, "tools").source
    assert take_all(grammar, text, special=special) is is_complete
    parser = answers.parser([NOTHING], separates_reasoning=True, is_reasoning_open=is_open, parallel=False)
    answer = read(parser, text)
    assert (len(answer.calls) == 1 and not answer.content) is is_complete


def take_all(grammar: str, text: str, *, special: bool) -> bool:
    """Whether a text is allowed token by token, its marks as special tokens or not, and complete with the last one."""
    matcher = Matcher(make_matcher(make_tokenizer(SPECIAL), grammar), len(TOKENS))
    marks = "|".join(map(re.escape, MARKS)) if special else "(?!)"
    is_complete = False
    for part in re.split(f"({marks})", text):
        ids = [TOKENS.index(part.encode())] if special and part in MARKS else list(part.encode())
        for token_id in ids:
            if not matcher.allowed().tokens[token_id]:
                return False
            is_complete = matcher.take(token_id)
    return is_complete


@pytest.mark.parametrize("reasons", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_a_schema_that_cannot_be_kept_to_is_said_of_its_function(
    name: str, reasons: bool, compiler: GrammarCompiler
) -> None:
    wrong = Function("wrong", None, {"properties": {"a": {"type": "strng", "description": "one\u2028two"}}})
    functions = [NOTHING, WEATHER, wrong, NOTHING]
    structure = chat_format(name, special=True, reasons=reasons).calls(
        functions, reasons=reasons, is_reasoning_open=False, parallel=True
    )
    with pytest.raises(RequestError) as caught:
        compiler.compile(structure, "tools")
    said = said_of_function(str(caught.value), structure.source, functions)
    assert said == "Invalid value for 'tools': the parameters of the function 'wrong': Invalid type: strng."


@pytest.mark.parametrize(
    "message", ["it takes too much time", "at 1(8): no", "at 0(1): no", "at 99(1): no", "at 2(9): no"]
)
def test_what_is_no_functions_fault_is_said_as_it_was(message: str) -> None:
    assert said_of_function(message, "start: calls\nobject_7: x", [WEATHER]) == message
