"""Which format a model writes, by its template; and an answer read as a whole: reasoning, text, calls."""

from __future__ import annotations

from typing import Any

import pytest

from tests.llm.reading import Read, read
from tests.tokenizer.family_templates import TEMPLATES
from transom.llm.chat_format import ChatFormat
from transom.llm.tool_parsers import Function, tell_in_words

FORMAT_OF = {
    "llama 3": "llama3_json",
    "deepseek-coder": "json",
    "mistral, ministral, mixtral": "mistral",
    "qwen2, qwen3": "hermes",
    "gemma 2, gemma 3": "json",
    "lfm2": "pythonic",
}
KNOW_TOOLS = {"llama 3", "mistral, ministral, mixtral", "qwen2, qwen3", "smollm3", "granite", "lfm2"}
FUNCTIONS = [Function("f")]


def no_token(text: str) -> int | None:
    return None


@pytest.mark.parametrize("family", FORMAT_OF)
def test_the_template_tells_the_format(family: str) -> None:
    assert ChatFormat.of(TEMPLATES[family], no_token).tool_format.name == FORMAT_OF[family]


def test_templates_that_tell_of_tools_are_known_and_so_is_their_reasoning() -> None:
    formats = {family: ChatFormat.of(template, no_token) for family, template in TEMPLATES.items()}
    assert {family for family, chat_format in formats.items() if chat_format.knows_tools} == KNOW_TOOLS
    assert {family for family, each in formats.items() if each.reasoning is not None} == {"qwen2, qwen3", "smollm3"}


def test_the_registry_may_name_another_format() -> None:
    assert ChatFormat.of(TEMPLATES["qwen2, qwen3"], no_token, "mistral").tool_format.name == "mistral"


def test_a_prompt_may_end_within_the_reasoning() -> None:
    chat_format = ChatFormat.of("</think>", no_token)
    assert chat_format.is_reasoning_open("<|im_start|>assistant\n<think>\n")
    assert not chat_format.is_reasoning_open("<think>\n\n</think>\n\n")
    assert not ChatFormat.of("", no_token).is_reasoning_open("<think>")


TEXT = (
    '<think>\nI call f.\n</think>\n\nSo: <tool_call>{"name": "f"}</tool_call>\n<tool_call>{"name": "f"}</tool_call> x'
)


@pytest.mark.parametrize(
    ("separates", "parallel", "functions", "answer"),
    [
        (True, True, FUNCTIONS, Read("So: x", "I call f.", [("f", "{}")] * 2, 2)),
        (True, False, FUNCTIONS, Read("So:", "I call f.", [("f", "{}")], 1)),
        (True, True, [], Read(TEXT.partition("\n\n")[2], "I call f.")),
        (False, True, [], Read(TEXT)),
    ],
)
def test_an_answer_has_reasoning_text_and_calls(
    separates: bool, parallel: bool, functions: list[Function], answer: Read
) -> None:
    chat_format = ChatFormat.of("<tool_call></think>", no_token)
    for cuts in (range(0), range(len(TEXT))):
        parser = chat_format.parser(
            functions, separates_reasoning=separates, is_reasoning_open=False, parallel=parallel
        )
        assert read(parser, TEXT, cuts) == answer
        assert parser.has_called is bool(answer.calls)


def test_a_model_whose_template_knows_no_tools_is_told_in_words() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "42"},
    ]
    told = tell_in_words(messages, [tool])
    assert [message["role"] for message in told] == ["system", "user", "assistant", "user"]
    assert '{"name": "f", "parameters": {}}' in told[0]["content"]
    assert told[2] == {"role": "assistant", "content": '[{"name": "f", "arguments": {"a": 1}}]'}
    assert told[3]["content"].endswith("42")
    assert tell_in_words(messages[:1], None) == messages[:1]
    [system, user] = tell_in_words([{"role": "system", "content": "Be kind."}, messages[0]], [tool])
    assert system["content"].startswith("Be kind.\n\n")
    assert user == messages[0]
