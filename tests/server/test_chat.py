"""POST /v1/chat/completions: shapes, streams, log probabilities, the context window with the template counted."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.asgi import ask, chat
from tests.server.served import RECITED, RecitingEngine, make_app

HELLO = [{"role": "user", "content": "Hello"}]


async def test_an_answer_has_openais_shape() -> None:
    body = (await chat(make_app(), max_tokens=6)).json()
    assert body["id"].startswith("chatcmpl-")
    assert body["object"] == "chat.completion"
    [choice] = body["choices"]
    assert choice["message"] == {"role": "assistant", "content": RECITED[:6].decode(), "refusal": None}
    assert choice["finish_reason"] == "length"
    assert choice["logprobs"] is None
    assert body["usage"]["prompt_tokens"] == 5


async def test_without_a_limit_a_chat_gets_the_rest_of_the_window() -> None:
    body = (await chat(make_app())).json()
    assert body["usage"]["completion_tokens"] == 251
    assert body["choices"][0]["length_cause"] == "context"


@pytest.mark.parametrize(
    ("num_prompt_tokens", "max_tokens", "num_generated"),
    [
        (8, None, 248),
        (200, 56, 56),
        (200, 57, None),
        (255, None, 1),
        (256, None, None),
        (256, 1, None),
        (257, None, None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_the_boundary_table_of_the_context_window(
    num_prompt_tokens: int, max_tokens: int | None, num_generated: int | None, stream: bool
) -> None:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "a" * num_prompt_tokens}], "stream": stream}
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    if stream:
        body["stream_options"] = {"include_usage": True}
    answer = await chat(make_app(), **body)
    if num_generated is None:
        assert answer.status == 400
        assert (answer.error["code"], answer.error["param"]) == ("context_length_exceeded", "messages")
        assert (answer.error["n_prompt_tokens"], answer.error["n_ctx"]) == (num_prompt_tokens, 256)
        return
    usage = answer.events()[-2]["usage"] if stream else answer.json()["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (num_prompt_tokens, num_generated)


async def test_the_stream_equals_the_answer_in_one_piece_and_names_the_role_first() -> None:
    body = {"max_tokens": 40, "n": 2, "seed": 3, "logprobs": True, "top_logprobs": 2}
    whole = (await chat(make_app(), **body)).json()
    *chunks, last, done = (await chat(make_app(), **body, stream=True, stream_options={"include_usage": True})).events()
    assert done == "[DONE]"
    assert last["usage"] == whole["usage"]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    for expected in whole["choices"]:
        pieces = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == expected["index"]]
        assert pieces[0]["delta"]["role"] == "assistant"
        assert "".join(piece["delta"].get("content", "") for piece in pieces) == expected["message"]["content"]
        assert pieces[-1]["finish_reason"] == "length"
        logprobs = [item for piece in pieces[1:] for item in piece["logprobs"]["content"]]
        assert logprobs == expected["logprobs"]["content"]


async def test_log_probabilities_carry_the_bytes_of_split_characters() -> None:
    content = (await chat(make_app(), max_tokens=4, logprobs=True, top_logprobs=1)).json()["choices"][0]["logprobs"][
        "content"
    ]
    assert [item["bytes"] for item in content] == [[71], [114], [0xC3], [0xBC]]
    assert content[0] == {
        "token": "G",
        "bytes": [71],
        "logprob": -0.5,
        "top_logprobs": [{"token": "G", "bytes": [71], "logprob": -0.5}],
    }


async def test_token_ids_come_with_the_prompts_on_request() -> None:
    body = (await chat(make_app(), max_tokens=2, return_token_ids=True)).json()
    assert body["prompt_token_ids"] == list(b"Hello")
    assert body["choices"][0]["token_ids"] == list(RECITED[:2])
    events = (await chat(make_app(), max_tokens=2, return_token_ids=True, stream=True)).events()
    assert [event["prompt_token_ids"] for event in events[:-1] if "prompt_token_ids" in event] == [list(b"Hello")]


async def test_progress_of_the_prompt_is_shown_on_request() -> None:
    events = (await chat(make_app(), max_tokens=2, stream=True, return_progress=True)).events()
    progress = [event["prompt_progress"] for event in events[:-1] if "prompt_progress" in event]
    assert progress[0]["total"] == progress[0]["processed"] == 5


async def test_the_final_message_can_be_continued() -> None:
    messages = [*HELLO, {"role": "assistant", "content": "I am"}]
    engine = RecitingEngine()
    answer = await chat(make_app(engine), messages=messages, add_generation_prompt=False, continue_final_message=True)
    assert answer.status == 200
    assert bytes(engine.requests[0].prompt_token_ids).endswith(b"I am")


async def test_template_text_in_content_stays_text() -> None:
    engine = RecitingEngine()
    await chat(make_app(engine), messages=[{"role": "user", "content": "{{ 7*7 }}</s>"}], max_tokens=1)
    assert bytes(engine.requests[0].prompt_token_ids) == b"{{ 7*7 }}</s>"


@pytest.mark.parametrize("path", ["/v1/chat/completions/input_tokens", "/chat/completions/input_tokens"])
async def test_the_token_counter_counts_what_the_chat_counts(path: str) -> None:
    answer = await ask(make_app(), "POST", path, {"model": "tiny", "messages": HELLO})
    assert answer.json()["input_tokens"] == 5
