"""/v1/responses through the official client: typed events, the stream helper, tools there and back, parsed forms."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.server.running import running_app
from tests.server.served import REPORT, RecitingEngine, served_model
from tests.tokenizer.family_templates import TEMPLATES
from transom.registry import ModelRegistry
from transom.server.app import create_app
from transom.server.lifecycle import Lifecycle
from transom.server.settings import ServerSettings

QWEN = TEMPLATES["qwen2, qwen3"]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER: Any = {"type": "function", "name": "get_weather", "parameters": PARAMETERS, "strict": False}
STOP: Any = {"type": "function", "name": "stop", "parameters": {"type": "object", "properties": {}}, "strict": False}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Bonn"}}\n</tool_call>'
SAID = f"<think>\nhm\n</think>\n\nLet me see.\n{CALL}"


@asynccontextmanager
async def client_of(said: str) -> AsyncIterator[tuple[openai.AsyncOpenAI, RecitingEngine]]:
    """A client of a model that says `said` and then its end, whatever it is asked."""
    report = replace(REPORT, max_sequence_tokens=4096)
    engine = RecitingEngine(recited=said.encode() + b"!", end_after=len(said.encode()), report=report)
    served = served_model(engine, template=QWEN, window=4096)
    settings, lifecycle = ServerSettings(port=0, drain_timeout=2), Lifecycle()
    try:
        app = create_app(ModelRegistry([served]), settings, lifecycle)
        async with (
            running_app(app, lifecycle, settings) as server,
            openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client,
        ):
            yield client, engine
    finally:
        served.llm.close()


def prompts_of(engine: RecitingEngine) -> list[str]:
    return [bytes(token for token in request.prompt_token_ids if token < 256).decode() for request in engine.requests]


async def test_the_stream_helper_puts_together_what_the_answer_in_one_piece_is() -> None:
    asked: dict[str, Any] = {"model": "tiny", "input": "Hi", "tools": [WEATHER], "max_output_tokens": 500}
    async with client_of(SAID) as (client, _):
        whole = await client.responses.create(**asked)
        async with client.responses.stream(**asked) as stream:
            events = [event async for event in stream]
            final = await stream.get_final_response()
    kinds: list[str] = [event.type for event in events]
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call"]
    assert [item.type for item in whole.output] == ["reasoning", "message", "function_call"]
    assert final.output_text == whole.output_text == "Let me see."
    assert final.usage == whole.usage
    assert kinds.count("response.output_item.added") == kinds.count("response.output_item.done") == 3
    for kind in ("reasoning_text", "output_text", "function_call_arguments"):
        assert kinds.index(f"response.{kind}.delta") < kinds.index(f"response.{kind}.done")
    assert [event.sequence_number for event in events] == list(range(len(events)))


async def test_a_call_goes_out_and_its_result_comes_back() -> None:
    async with client_of(SAID) as (client, engine):
        history: list[Any] = [{"role": "user", "content": "Is it cold in Bonn?"}]
        first = await client.responses.create(model="tiny", input=history, tools=[WEATHER], max_output_tokens=500)
        [call] = [item for item in first.output if item.type == "function_call"]
        assert json.loads(call.arguments) == {"city": "Bonn"}
        history += first.output
        history.append({"type": "function_call_output", "call_id": call.call_id, "output": "12 degrees"})
        second = await client.responses.create(model="tiny", input=history, tools=[WEATHER], max_output_tokens=500)
        dumped: list[Any] = [item if isinstance(item, dict) else item.model_dump() for item in history]
        third = await client.responses.create(model="tiny", input=dumped, tools=[WEATHER], max_output_tokens=500)
    _, told, told_again = prompts_of(engine)
    assert "<think>\nhm\n</think>" in told
    assert told.index("Let me see.") < told.index('"city": "Bonn"') < told.index("12 degrees")
    assert told == told_again
    assert second.output_text == third.output_text == "Let me see."


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "function", "name": "stop"},
        {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "stop"}]},
    ],
)
async def test_a_function_that_must_be_called_is_enforced_by_a_grammar(choice: Any) -> None:
    async with client_of(SAID) as (client, engine):
        answer = await client.responses.create(
            model="tiny", input="Hi", tools=[WEATHER, STOP], tool_choice=choice, max_output_tokens=500
        )
    assert json.loads(answer.model_dump_json())["tool_choice"]["type"] == choice["type"]
    grammar = engine.requests[0].sampling.grammar
    assert grammar is not None
    assert "stop" in grammar.source
    assert "get_weather" not in grammar.source


class City(BaseModel):
    """A form."""

    name: str


async def test_a_form_is_kept_to_and_parsed() -> None:
    async with client_of('{"name": "Bonn"}') as (client, engine):
        answer = await client.responses.parse(model="tiny", input="Where?", text_format=City, max_output_tokens=100)
    assert answer.output_parsed == City(name="Bonn")
    assert engine.requests[0].sampling.grammar is not None


async def test_what_would_need_an_earlier_answer_is_refused_with_what_to_do_instead() -> None:
    async with client_of(SAID) as (client, engine):
        with pytest.raises(openai.BadRequestError, match="give the whole conversation as 'input'") as caught:
            await client.responses.create(model="tiny", input="Hi", previous_response_id="resp_1")
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve("resp_1")
    assert (caught.value.param, caught.value.code) == ("previous_response_id", "unsupported_parameter")
    assert not engine.requests


async def test_the_tokens_of_an_input_are_counted_without_an_answer() -> None:
    async with client_of(SAID) as (client, engine):
        counted = await client.responses.input_tokens.count(model="tiny", input="Hi", tools=[WEATHER])
        assert not engine.requests
        answer = await client.responses.create(model="tiny", input="Hi", tools=[WEATHER], max_output_tokens=20)
    assert answer.usage is not None
    assert counted.input_tokens == answer.usage.input_tokens
