"""vLLM's `prompt_logprobs`: where an operator allows it, on completions and chat, whole and streamed."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI

from tests.server.asgi import chat, complete
from tests.server.served import RecitingEngine, make_app
from transom.server.settings import ServerSettings

SCORED_B = {
    "98": {"logprob": -2.0, "rank": 1, "decoded_token": "b"},
    "1": {"logprob": -9999.0, "rank": 2, "decoded_token": "\x01"},
}


def allowing(engine: RecitingEngine | None = None) -> FastAPI:
    return make_app(engine or RecitingEngine(), settings=ServerSettings(allow_prompt_logprobs=True))


async def test_each_choice_of_a_completion_has_one_entry_for_each_token_of_its_prompt() -> None:
    answer = await complete(allowing(), prompt=["ab", "b"], n=2, max_tokens=3, prompt_logprobs=2)
    choices = answer.json()["choices"]
    assert [choice["prompt_logprobs"] for choice in choices] == [[None, SCORED_B], [None, SCORED_B], [None], [None]]
    assert all(choice["logprobs"] is None for choice in choices)


async def test_without_rivals_only_the_token_of_the_prompt_is_told() -> None:
    answer = await complete(allowing(), prompt="ab", prompt_logprobs=0, return_tokens_as_token_ids=True)
    itself = {"98": {**SCORED_B["98"], "decoded_token": "token_id:98"}}
    assert answer.json()["choices"][0]["prompt_logprobs"] == [None, itself]


@pytest.mark.parametrize(("echoed", "wanted"), [(1, 2), (2, 1)])
async def test_beside_an_echo_each_has_as_many_rivals_as_it_asked_for(echoed: int, wanted: int) -> None:
    engine = RecitingEngine()
    asked: dict[str, Any] = {"prompt": "ab", "echo": True, "logprobs": echoed, "prompt_logprobs": wanted}
    [choice] = (await complete(allowing(engine), max_tokens=1, **asked)).json()["choices"]
    assert len(choice["logprobs"]["top_logprobs"][1]) == echoed
    assert len(choice["prompt_logprobs"][1]) == wanted
    assert engine.requests[0].sampling.prompt_logprobs == 2


async def test_a_stream_tells_them_once_for_each_choice() -> None:
    asked: dict[str, Any] = {"prompt": ["ab", "b"], "n": 2, "max_tokens": 3, "prompt_logprobs": 2}
    whole = (await complete(allowing(), **asked)).json()["choices"]
    events = (await complete(allowing(), **asked, stream=True)).events()[:-1]
    told = [choice for event in events for choice in event["choices"] if "prompt_logprobs" in choice]
    assert {choice["index"]: choice["prompt_logprobs"] for choice in told} == {
        choice["index"]: choice["prompt_logprobs"] for choice in whole
    }
    assert len(told) == 4


@pytest.mark.parametrize("stream", [False, True])
async def test_a_chat_tells_them_at_the_top_of_its_answer(stream: bool) -> None:
    answer = await chat(allowing(), max_tokens=3, n=2, prompt_logprobs=1, stream=stream)
    parts = answer.events()[:-1] if stream else [answer.json()]
    told = [part["prompt_logprobs"] for part in parts if "prompt_logprobs" in part]
    assert len(told) == 1
    assert [entry and entry[str(token)]["decoded_token"] for entry, token in zip(told[0], b"Hello", strict=True)] == [
        None,
        *"ello",
    ]


@pytest.mark.parametrize("ask", [complete, chat])
async def test_s06_it_is_off_unless_the_operator_allows_it(ask: Any) -> None:
    engine = RecitingEngine()
    answer = await ask(make_app(engine), prompt_logprobs=0)
    assert (answer.status, answer.error["param"]) == (400, "prompt_logprobs")
    assert answer.error["code"] == "unsupported_parameter"
    assert "--allow-prompt-logprobs" in answer.error["message"]
    assert not engine.requests


@pytest.mark.parametrize("ask", [complete, chat])
@pytest.mark.parametrize("value", [-1, 21, 2**63])
async def test_s06_the_whole_vocabulary_is_refused_whatever_is_allowed(ask: Any, value: int) -> None:
    answer = await ask(allowing(), prompt_logprobs=value)
    assert (answer.status, answer.error["param"], answer.error["code"]) == (400, "prompt_logprobs", "invalid_value")


async def test_s07_they_are_part_of_what_a_request_may_cost() -> None:
    prompts = ["a" * 200] * 100
    assert (await complete(allowing(), prompt=prompts, max_tokens=1, prompt_logprobs=0)).status == 200
    answer = await complete(allowing(), prompt=prompts, n=16, max_tokens=1, prompt_logprobs=20)
    assert answer.status == 400
    assert "units of work" in answer.error["message"]
