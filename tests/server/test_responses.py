"""POST /v1/responses: the response, the order of its events, what an input means, and what is refused and why."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from tests.server.asgi import Answer, ask
from tests.server.running import running
from tests.server.served import RECITED, REPORT, RecitingEngine, make_app, served_model
from tests.tokenizer.family_templates import TEMPLATES
from transom.errors import EngineRestartingError
from transom.registry import ModelRegistry
from transom.server.app import create_app
from transom.server.settings import ServerSettings

EVENT: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"


async def respond(app: Any, **body: Any) -> Answer:
    return await ask(app, "POST", "/v1/responses", {"model": "tiny", "input": "Hello", "max_output_tokens": 8, **body})


def app_with_template(engine: RecitingEngine) -> Any:
    return create_app(ModelRegistry([served_model(engine, template=TEMPLATE)]), ServerSettings())


def named_events(answer: Answer) -> list[tuple[str, dict[str, Any]]]:
    events = []
    for block in answer.body.decode().strip().split("\n\n"):
        name, data = block.split("\n")
        events.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return events


async def prompt_of(**body: Any) -> str:
    engine = RecitingEngine()
    answer = await respond(app_with_template(engine), **body)
    assert answer.status == 200, answer.body
    [request] = engine.requests
    return bytes(request.prompt_token_ids).decode()


async def test_a_cut_answer_is_incomplete_and_says_why() -> None:
    answer = await respond(make_app())
    body = answer.json()
    response = Response.model_validate(body)
    assert response.output_text == RECITED[:8].decode("utf-8", "ignore")
    assert body["object"] == "response"
    assert body["id"].startswith("resp_")
    assert body["status"] == "incomplete"
    assert body["incomplete_details"] == {"reason": "max_output_tokens"}
    assert body["output"][0]["status"] == "incomplete"
    assert body["store"] is False
    assert body["usage"] == {
        "input_tokens": 5,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 8,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 13,
    }


async def test_a_whole_answer_is_completed() -> None:
    body = (await respond(make_app(RecitingEngine(end_after=5)))).json()
    assert body["status"] == body["output"][0]["status"] == "completed"
    assert body["incomplete_details"] is None


async def test_events_come_in_the_official_order_and_add_up_to_the_response() -> None:
    whole = (await respond(make_app())).json()
    events = named_events(await respond(make_app(), stream=True))
    names = [name for name, _ in events]
    deltas = names.count("response.output_text.delta")
    assert names == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * deltas,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    assert deltas > 1
    assert [data["type"] for _, data in events] == names
    assert [data["sequence_number"] for _, data in events] == list(range(len(events)))
    text = "".join(data["delta"] for name, data in events if name == "response.output_text.delta")
    last = events[-1][1]["response"]
    assert text == last["output"][0]["content"][0]["text"] == whole["output"][0]["content"][0]["text"]
    changing = ("id", "created_at", "output")
    assert {key: value for key, value in last.items() if key not in changing} == {
        key: value for key, value in whole.items() if key not in changing
    }
    for _, data in events:
        EVENT.validate_python(data)


async def test_an_answer_of_no_text_still_is_a_message() -> None:
    events = named_events(await respond(make_app(RecitingEngine(end_after=0)), stream=True))
    assert events[-1][0] == "response.completed"
    assert events[-1][1]["response"]["output"][0]["content"][0]["text"] == ""


async def test_a_failure_in_mid_stream_is_told_twice_and_ends_it() -> None:
    engine = RecitingEngine(fails_after=3, failure=EngineRestartingError("died"))
    events = named_events(await respond(make_app(engine), stream=True))
    assert [name for name, _ in events[-2:]] == ["response.failed", "error"]
    assert events[-2][1]["response"]["status"] == "failed"
    assert events[-1][1]["code"] == "engine_restarting"


@pytest.mark.parametrize(
    ("given", "prompt"),
    [
        ({"input": "Hi"}, "<user>Hi"),
        ({"input": "Hi", "instructions": "Be brief."}, "<system>Be brief.<user>Hi"),
        ({"input": [{"role": "user", "content": "Hi"}]}, "<user>Hi"),
        (
            {"input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}] * 2}]},
            "<user>a\na",
        ),
        (
            {
                "input": [
                    {"role": "user", "content": "a"},
                    {"type": "reasoning", "id": "rs_1", "summary": []},
                    {
                        "type": "message",
                        "id": "msg_1",
                        "status": "completed",
                        "role": "assistant",
                        "content": [{"type": "output_text", "text": "b", "annotations": [], "logprobs": []}],
                    },
                    {"role": "user", "content": "c"},
                ]
            },
            "<user>a<assistant>b<user>c",
        ),
        (
            {
                "input": [
                    {"role": "user", "content": "a"},
                    {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
                    {"type": "function_call_output", "call_id": "1", "output": "42"},
                ]
            },
            '<user>a<assistant>[{"name": "f", "arguments": {}}]<user>Result of the call: 42',
        ),
    ],
)
async def test_an_input_is_the_chat_that_it_tells(given: dict[str, Any], prompt: str) -> None:
    assert await prompt_of(**given) == prompt


async def test_an_answer_can_be_sent_back_as_it_came() -> None:
    first = (await respond(make_app(), input="a")).json()
    text = first["output"][0]["content"][0]["text"]
    history = [{"role": "user", "content": "a"}, *first["output"], {"role": "user", "content": "b"}]
    assert await prompt_of(input=history) == f"<user>a<assistant>{text}<user>b"


async def test_log_probabilities_come_with_every_piece_of_text() -> None:
    asked: dict[str, Any] = {"top_logprobs": 2, "include": ["message.output_text.logprobs"]}
    whole = (await respond(make_app(), **asked)).json()["output"][0]["content"][0]["logprobs"]
    assert len(whole) == 8
    assert all(len(each["top_logprobs"]) == 2 for each in whole)
    events = named_events(await respond(make_app(), **asked, stream=True))
    parts = [data["logprobs"] for name, data in events if name == "response.output_text.delta"]
    assert [each for part in parts for each in part] == whole


async def test_a_limit_that_is_too_high_is_told_by_its_own_name() -> None:
    refused = await respond(make_app(), input="x", max_output_tokens=90_000)
    assert refused.error["code"] == "context_length_exceeded"
    assert "or lower max_output_tokens." in refused.error["message"]


async def test_items_may_be_left_out_where_that_is_allowed_and_are_named() -> None:
    history = [{"role": "user", "content": "x" * 100}, {"role": "assistant", "content": "y" * 100}]
    given = {
        "input": [*history, {"role": "user", "content": "z"}],
        "instructions": "Be brief.",
        "max_output_tokens": 90,
    }
    refused = await respond(make_app(), **given)
    assert refused.error["code"] == "context_length_exceeded"
    assert refused.error["param"] == "input"
    body = (await respond(make_app(), **given, truncation="auto")).json()
    assert body["truncation"] == "auto"
    assert body["input_truncation"]["left_out_items"] == [0]
    assert body["input_truncation"]["left_out_tokens"] >= 100


async def test_what_was_asked_and_what_holds_is_told() -> None:
    body = (await respond(make_app(), metadata={"a": "b"}, temperature=0.5, instructions="I", user="u")).json()
    assert (body["metadata"], body["temperature"], body["top_p"]) == ({"a": "b"}, 0.5, 1.0)
    assert (body["instructions"], body["user"], body["max_output_tokens"]) == ("I", "u", 8)
    assert body["text"] == {"format": {"type": "text"}}
    assert body["tools"] == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"conversation": {"id": "conv_1"}}, "conversation"),
        ({"background": True}, "background"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": 3}, "input"),
        ({"input": ["a"]}, "input"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input"),
        ({"input": [{"type": 7}]}, "input"),
        ({"input": [{"type": "reasoning", "summary": []}]}, "input"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "tool", "content": "a"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": []}]}, "input[0].content"),
        ({"input": [{"type": "function_call", "call_id": "1", "name": "f"}]}, "input[0].arguments"),
        ({"input": [{"role": "user", "content": "a", "extra": 1}]}, "input[0].extra"),
        ({"instructions": 1}, "instructions"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": -2}, "max_output_tokens"),
        ({"max_output_tokens": "8"}, "max_output_tokens"),
        ({"max_output_tokens": 300}, "input"),
        ({"temperature": 3}, "temperature"),
        ({"top_p": "1"}, "top_p"),
        ({"truncation": "middle"}, "truncation"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"include": ["file_search_call.results"]}, "include"),
        ({"max_tool_calls": 0}, "max_tool_calls"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"stream_options": {}}, "stream_options"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format"),
        ({"text": {"format": {"type": "json_schema", "name": "a b", "schema": {}}}}, "text.format"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
        ({"reasoning": {"summary": "detailed"}}, "reasoning.summary"),
        ({"service_tier": "gold"}, "service_tier"),
        ({"messages": []}, "messages"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"n": 2}, "n"),
        ({"model": "nobody"}, "model"),
    ],
)
async def test_what_cannot_be_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    answer = await respond(make_app(), **fields)
    assert answer.status == (404 if param == "model" else 400)
    assert answer.error["param"] == param


async def test_that_nothing_is_kept_is_the_reason() -> None:
    answer = await respond(make_app(), previous_response_id="resp_1")
    assert "keeps no responses" in answer.error["message"]
    assert (await respond(make_app(), store=True, previous_response_id=None, background=False)).json()["store"] is False


async def test_the_official_client_reads_answers_and_streams() -> None:
    async with (
        running() as server,
        openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="k", max_retries=0) as client,
    ):
        whole = await client.responses.create(model="tiny", input="Hello", max_output_tokens=20)
        stream = await client.responses.create(model="tiny", input="Hello", max_output_tokens=20, stream=True)
        events = [event async for event in stream]
        with pytest.raises(openai.BadRequestError) as caught:
            await client.responses.create(model="tiny", input="Hello", previous_response_id="resp_1")
    assert whole.output_text == RECITED[:20].decode()
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.output_text == whole.output_text
    assert caught.value.param == "previous_response_id"


TOOL = {"type": "function", "name": "stop", "parameters": {"type": "object", "properties": {}}, "strict": False}
CALLING = '<think>\nhm\n</think>\n\nI stop.\n<tool_call>\n{"name": "stop", "arguments": {}}\n</tool_call>'


@pytest.mark.parametrize("stream", [False, True])
async def test_thoughts_text_and_calls_are_items_each(stream: bool) -> None:
    said = CALLING.encode()
    report = replace(REPORT, max_sequence_tokens=4096)
    engine = RecitingEngine(recited=said + b"!", end_after=len(said), report=report)
    served = served_model(engine, template=TEMPLATES["qwen2, qwen3"], window=4096)
    try:
        app = create_app(ModelRegistry([served]), ServerSettings())
        answer = await respond(app, tools=[TOOL], max_output_tokens=200, stream=stream)
    finally:
        served.llm.close()
    assert answer.status == 200, answer.body
    events = named_events(answer) if stream else []
    body = events[-1][1]["response"] if stream else answer.json()
    Response.model_validate(body)
    assert body["status"] == "completed"
    reasoning_tokens = len(b"<think>\nhm\n</think>")
    assert body["usage"]["output_tokens_details"] == {"reasoning_tokens": reasoning_tokens}
    assert [item["type"] for item in body["output"]] == ["reasoning", "message", "function_call"]
    reasoning, message, call = body["output"]
    assert (reasoning["content"][0]["text"], message["content"][0]["text"]) == ("hm", "I stop.")
    assert (call["name"], call["arguments"], call["status"]) == ("stop", "{}", "completed")
    assert call["call_id"] != call["id"]
    if stream:
        names = [name for name, _ in events]
        deltas = [data["delta"] for name, data in events if name == "response.function_call_arguments.delta"]
        assert "".join(deltas) == "{}"
        assert names.index("response.function_call_arguments.done") < len(names) - 2
        assert [data["output_index"] for name, data in events if name == "response.output_item.done"] == [0, 1, 2]
        for _, data in events:
            EVENT.validate_python(data)
