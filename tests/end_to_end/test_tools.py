"""Tools through the official client, with models that know nothing of tools: what is required comes, in its schema."""

from __future__ import annotations

import json
from typing import Any

import jsonschema

from tests.running_server import RunningServer

CITY = {"type": "string", "minLength": 1, "maxLength": 10}
PARAMETERS = {
    "type": "object",
    "properties": {"city": CITY, "days": {"type": "integer", "minimum": 1, "maximum": 7}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER: Any = {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}
STOP: Any = {"type": "function", "function": {"name": "stop"}}
ASKED: dict[str, Any] = {
    "model": "tolstoy",
    "messages": [{"role": "user", "content": "What is the weather in Moscow?"}],
    "tools": [WEATHER, STOP],
    "max_tokens": 300,
    "seed": 3,
}


def test_a_named_function_is_called_with_valid_arguments(server: RunningServer) -> None:
    choice: Any = {"type": "function", "function": {"name": "get_weather"}}
    answer = server.client().chat.completions.create(**ASKED, tool_choice=choice, parallel_tool_calls=False)
    [call] = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "get_weather"
    jsonschema.validate(json.loads(call.function.arguments), PARAMETERS)
    assert (answer.choices[0].finish_reason, answer.choices[0].message.content) == ("tool_calls", None)


def test_a_required_call_streams_as_it_comes_in_one_piece(server: RunningServer) -> None:
    client = server.client()
    required: dict[str, Any] = {**ASKED, "tool_choice": "required", "parallel_tool_calls": False}
    [whole] = client.chat.completions.create(**required).choices[0].message.tool_calls or []
    assert whole.type == "function"
    name, arguments = "", ""
    for chunk in client.chat.completions.create(**required, stream=True):
        for fragment in chunk.choices[0].delta.tool_calls or []:
            assert fragment.index == 0
            assert fragment.function is not None
            name += fragment.function.name or ""
            arguments += fragment.function.arguments or ""
    assert (name, arguments) == (whole.function.name, whole.function.arguments)


def test_a_result_goes_back_and_the_model_goes_on(server: RunningServer) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "stop", "arguments": "{}"}}
    messages: list[Any] = [
        *ASKED["messages"],
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "stopped"},
    ]
    answer = server.client().chat.completions.create(**{**ASKED, "messages": messages, "max_tokens": 5})
    assert answer.choices[0].finish_reason in ("length", "stop")
    assert (
        server.post("/apply-template", {"model": "tolstoy", "messages": messages}).json()["prompt"].count("stop") == 2
    )
