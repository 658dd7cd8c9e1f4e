"""Tools and reasoning over HTTP: OpenAI's shapes, whole and streamed, and every bad combination by its name."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.server.asgi import Answer, chat
from tests.server.served import REPORT, RecitingEngine, served_model
from tests.tokenizer.family_templates import TEMPLATES
from transom.registry import ModelRegistry
from transom.server.app import create_app
from transom.server.settings import ServerSettings

WINDOW = 4096
QWEN = TEMPLATES["qwen2, qwen3"]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "x", "parameters": PARAMETERS}}
STOP = {"type": "function", "function": {"name": "stop"}}
NAMED = {"type": "function", "function": {"name": "stop"}}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Köln"}}\n</tool_call>'
SECOND_CALL = '<tool_call>\n{"name": "stop", "arguments": {}}\n</tool_call>'
TWO_CALLS = f"<think>\nhm\n</think>\n\nLet me see.\n{CALL}\n{SECOND_CALL}"
Asked = tuple[Answer, RecitingEngine]


async def ask(text: str, *, template: str | None = QWEN, per_output: int = 1, **body: Any) -> Asked:
    """The answer of a model that says `text` and then its end."""
    said = text.encode()
    report = replace(REPORT, max_sequence_tokens=WINDOW)
    engine = RecitingEngine(recited=said + b"!", end_after=len(said), tokens_per_output=per_output, report=report)
    served = served_model(engine, template=template, window=WINDOW)
    try:
        app = create_app(ModelRegistry([served]), ServerSettings())
        return await chat(app, **{"tools": [WEATHER, STOP], "max_completion_tokens": len(said) + 2, **body}), engine
    finally:
        served.llm.close()


def prompt_of(engine: RecitingEngine) -> str:
    return bytes(token for token in engine.requests[0].prompt_token_ids if token < 256).decode()


async def test_an_answer_has_reasoning_content_and_calls() -> None:
    answer, engine = await ask(TWO_CALLS)
    [choice] = answer.json()["choices"]
    message = choice["message"]
    assert choice["finish_reason"] == "tool_calls"
    assert (message["content"], message["reasoning_content"]) == ("Let me see.", "hm")
    calls = message["tool_calls"]
    assert [call["function"] for call in calls] == [
        {"name": "get_weather", "arguments": '{"city": "Köln"}'},
        {"name": "stop", "arguments": "{}"},
    ]
    assert len({call["id"] for call in calls}) == 2
    assert all(call["type"] == "function" for call in calls)
    assert '"name": "get_weather"' in prompt_of(engine)


@pytest.mark.parametrize("per_output", [1, 7, 1000])
async def test_the_stream_is_openais_and_comes_to_the_same(per_output: int) -> None:
    answer, _ = await ask(TWO_CALLS, per_output=per_output, stream=True)
    chunks = [event["choices"][0] for event in answer.events()[:-1]]
    deltas = [chunk["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": "", "refusal": None}
    assert "".join(delta.get("content") or "" for delta in deltas) == "Let me see."
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "hm"
    fragments = [fragment for delta in deltas for fragment in delta.get("tool_calls", ())]
    firsts = [fragment for fragment in fragments if "id" in fragment]
    assert [(first["index"], first["function"]["name"]) for first in firsts] == [(0, "get_weather"), (1, "stop")]
    assert all(fragment.keys() == {"index", "function"} for fragment in fragments if "id" not in fragment)
    for index, arguments in enumerate(['{"city": "Köln"}', "{}"]):
        pieces = [fragment["function"]["arguments"] for fragment in fragments if fragment["index"] == index]
        assert "".join(pieces) == arguments
    assert [chunk["finish_reason"] for chunk in chunks if chunk["finish_reason"]] == ["tool_calls"]


async def test_without_leave_to_call_in_parallel_there_is_one_call() -> None:
    answer, _ = await ask(TWO_CALLS, parallel_tool_calls=False)
    assert len(answer.json()["choices"][0]["message"]["tool_calls"]) == 1


@pytest.mark.parametrize("per_output", [1, 7, 1000])
@pytest.mark.parametrize("stream", [False, True])
async def test_without_leave_to_call_in_parallel_the_answer_ends_with_its_first_call(
    per_output: int, stream: bool
) -> None:
    options: dict[str, Any] = {"stream": stream, **({"stream_options": {"include_usage": True}} if stream else {})}
    answer, engine = await ask(TWO_CALLS, parallel_tool_calls=False, per_output=per_output, **options)
    whole = [*answer.events()[:-1]] if stream else [answer.json()]
    ends = [choice["finish_reason"] for part in whole for choice in part["choices"] if choice["finish_reason"]]
    used = TWO_CALLS.encode().index(b'{"city"') + len('{"city": "Köln"}}'.encode())
    assert ends == ["tool_calls"]
    assert whole[-1]["usage"]["completion_tokens"] == used
    assert per_output == 1000 or engine.aborted


@pytest.mark.parametrize("per_output", [1, 7, 1000])
async def test_tokens_of_the_reasoning_are_counted_wherever_outputs_are_cut(per_output: int) -> None:
    reasoning = len(b"<think>\nhm\n</think>")
    answer, _ = await ask(TWO_CALLS, per_output=per_output)
    usage = answer.json()["usage"]
    assert usage["completion_tokens_details"] == {"reasoning_tokens": reasoning}
    streaming: dict[str, Any] = {
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }
    streamed, _ = await ask(TWO_CALLS, per_output=per_output, n=2, **streaming)
    counts = [event["usage"]["completion_tokens_details"]["reasoning_tokens"] for event in streamed.events()[:-1]]
    assert counts == sorted(counts)
    assert counts[-1] == 2 * reasoning
    cut, _ = await ask(TWO_CALLS, per_output=per_output, max_completion_tokens=9, include_reasoning=False)
    assert cut.json()["usage"]["completion_tokens_details"] == {"reasoning_tokens": 9}


async def test_an_answer_without_reasoning_has_no_tokens_of_it() -> None:
    left_in: dict[str, Any] = {"reasoning_format": "none"}
    for text, body in [("No <think>no</think>.", {}), ("<think>hm</think> Yes.", left_in)]:
        answer, _ = await ask(text, tools=[], **body)
        assert answer.json()["usage"]["completion_tokens_details"] == {"reasoning_tokens": 0}


async def test_calls_alone_have_no_content_and_text_alone_no_calls() -> None:
    message = (await ask(CALL))[0].json()["choices"][0]["message"]
    assert message["content"] is None
    answer, _ = await ask("No calls here.")
    assert answer.json()["choices"][0]["message"] == {
        "role": "assistant",
        "content": "No calls here.",
        "refusal": None,
    }
    assert answer.json()["choices"][0]["finish_reason"] == "stop"


async def test_a_call_that_is_cut_is_not_a_finished_answer() -> None:
    answer, _ = await ask(CALL, max_completion_tokens=60)
    [choice] = answer.json()["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"].startswith('{"city"')


@pytest.mark.parametrize("body", [{"tools": []}, {"tool_choice": "none"}])
async def test_where_nothing_may_be_called_calls_are_text_and_the_model_hears_of_no_tools(body: dict[str, Any]) -> None:
    answer, engine = await ask(CALL, **body)
    assert answer.json()["choices"][0]["message"]["content"] == CALL
    assert "get_weather" not in prompt_of(engine)


async def test_reasoning_can_be_left_out_or_left_in() -> None:
    left_out = (await ask(TWO_CALLS, include_reasoning=False))[0].json()["choices"][0]["message"]
    assert "reasoning_content" not in left_out
    assert left_out["content"] == "Let me see."
    text = "<think>hm</think> Yes."
    left_in = (await ask(text, tools=[], reasoning_format="none"))[0].json()["choices"][0]["message"]
    assert left_in["content"] == text
    told_apart = (await ask(text, tools=[]))[0].json()["choices"][0]["message"]
    assert (told_apart["content"], told_apart["reasoning_content"]) == ("Yes.", "hm")


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        (None, None),
        ("auto", None),
        ("required", {"get_weather", "stop"}),
        (NAMED, {"stop"}),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [NAMED]}}, {"stop"}),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NAMED]}}, None),
    ],
)
async def test_a_required_call_is_enforced_by_a_grammar(choice: Any, names: set[str] | None) -> None:
    answer, engine = await ask(CALL, tool_choice=choice)
    assert answer.status == 200
    grammar = engine.requests[0].sampling.grammar
    assert (grammar is None) == (names is None)
    if grammar is not None and names is not None:
        assert {name for name in ("get_weather", "stop") if json.dumps({"const": name}) in grammar.source} == names


async def test_of_allowed_tools_only_those_are_calls() -> None:
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NAMED]}}
    message = (await ask(CALL, tool_choice=allowed))[0].json()["choices"][0]["message"]
    assert message["content"] == CALL
    assert "tool_calls" not in message


async def test_a_conversation_with_calls_and_results_goes_through_the_template() -> None:
    calls = [{"id": "call_1", "type": "function", "function": {"name": "stop", "arguments": "{}"}}]
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "call_1", "content": "done"},
    ]
    _, engine = await ask("Fine.", messages=messages, tools=[STOP])
    prompt = prompt_of(engine)
    assert '<tool_call>\n{"name": "stop", "arguments": {}}\n</tool_call>' in prompt
    assert "<tool_response>\ndone\n</tool_response>" in prompt


async def test_a_model_without_a_template_is_told_in_words_and_calls_in_json() -> None:
    answer, engine = await ask('{"name": "stop", "arguments": {}}', template=None, tools=[STOP])
    assert answer.json()["choices"][0]["message"]["tool_calls"][0]["function"] == {"name": "stop", "arguments": "{}"}
    assert '{"name": "stop"' in prompt_of(engine)


def tool(**function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", **function}}


BAD: list[tuple[str, dict[str, Any]]] = [
    ("tools", {"tools": "x"}),
    ("tools[0].type", {"tools": [{"type": "custom", "custom": {"name": "x"}}]}),
    ("tools[0].function", {"tools": [{"type": "function"}]}),
    ("tools[0].function.name", {"tools": [tool(name="")]}),
    ("tools[0].function.name", {"tools": [tool(name="a b")]}),
    ("tools[0].function.name", {"tools": [tool(name="x" * 65)]}),
    ("tools[0].function.parameters", {"tools": [tool(parameters="{}")]}),
    ("tools[0].function.returns", {"tools": [tool(returns={})]}),
    ("tools", {"tools": [tool(), tool()]}),
    ("tools", {"tools": [tool(name=f"f{number}") for number in range(129)]}),
    ("tool_choice", {"tool_choice": "maybe"}),
    ("tool_choice", {"tool_choice": {"type": "function"}}),
    ("tool_choice", {"tool_choice": {"type": "function", "function": {"name": "nobody"}}}),
    ("tool_choice", {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}}),
    ("tool_choice", {"tools": [], "tool_choice": "required"}),
    ("tool_choice", {"tools": [], "tool_choice": "auto"}),
    ("response_format", {"response_format": {"type": "json_object"}}),
    ("guided_regex", {"guided_regex": "a", "tool_choice": "required"}),
    ("allowed_token_ids", {"tool_choice": "required", "allowed_token_ids": [97]}),
    ("tools", {"tools": [tool(parameters={"type": "object", "not": {}})], "tool_choice": "required"}),
    ("parallel_tool_calls", {"parallel_tool_calls": "yes"}),
    ("reasoning_format", {"reasoning_format": "xml"}),
]


@pytest.mark.parametrize(("param", "body"), BAD, ids=range(len(BAD)))
async def test_what_cannot_be_is_a_400_that_names_the_field(param: str, body: dict[str, Any]) -> None:
    answer, engine = await ask("x", **body)
    assert (answer.status, answer.error["param"]) == (400, param)
    assert not engine.requests


async def test_a_schema_that_cannot_be_kept_to_is_named_by_its_function() -> None:
    wrong = {"type": "function", "function": {"name": "wrong", "parameters": {"properties": {"a": {"type": "strng"}}}}}
    answer, _ = await ask("x", tools=[WEATHER, wrong], tool_choice="required")
    assert (answer.status, answer.error["param"]) == (400, "tools")
    assert "the parameters of the function 'wrong': Invalid type" in answer.error["message"]
