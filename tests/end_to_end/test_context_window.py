"""Promise 1 through HTTP: prompt + max_tokens <= context window, counted in tokens, checked before any work."""

from __future__ import annotations

from typing import Any

import pytest

from tests.running_server import RunningServer

MODEL = "tolstoy"
WINDOW = 8192


def completion(server: RunningServer, num_prompt_tokens: int, max_tokens: int | None) -> tuple[int, dict[str, Any]]:
    body: dict[str, Any] = {"model": MODEL, "prompt": [5] * num_prompt_tokens, "temperature": 0, "ignore_eos": True}
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    response = server.post("/v1/completions", body)
    return response.status_code, response.json()


@pytest.mark.parametrize(
    ("num_prompt_tokens", "max_tokens", "status"),
    [
        (WINDOW - 56, 56, 200),
        (WINDOW - 56, 57, 400),
        (WINDOW - 1, 1, 200),
        (WINDOW - 1, 2, 400),
        (WINDOW, 1, 400),
        (WINDOW + 1, 1, 400),
        (8, WINDOW - 7, 400),
    ],
)
def test_a_completion_that_fills_the_window_is_accepted_and_one_token_more_is_refused(
    server: RunningServer, num_prompt_tokens: int, max_tokens: int, status: int
) -> None:
    answered, body = completion(server, num_prompt_tokens, max_tokens)
    assert answered == status
    if status == 200:
        assert body["usage"]["prompt_tokens"] == num_prompt_tokens
        assert body["usage"]["completion_tokens"] == max_tokens
    else:
        assert body["error"]["code"] == "context_length_exceeded"
        assert body["error"]["param"] == "prompt"
        assert body["error"]["n_prompt_tokens"] == num_prompt_tokens
        assert body["error"]["n_ctx"] == WINDOW
        for number in (WINDOW, num_prompt_tokens + max_tokens, num_prompt_tokens, max_tokens):
            assert str(number) in body["error"]["message"]


def chat(server: RunningServer, words: int, max_tokens: int | None, *, stream: bool = False) -> tuple[int, Any]:
    messages = [{"role": "user", "content": "a" + " the" * words}]
    body: dict[str, Any] = {
        "model": MODEL,
        "messages": messages,
        "temperature": 0,
        "ignore_eos": True,
        "stream": stream,
    }
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    response = server.post("/v1/chat/completions", body)
    return response.status_code, response.text if stream and response.status_code == 200 else response.json()


def count_chat_tokens(server: RunningServer, words: int) -> int:
    messages = [{"role": "user", "content": "a" + " the" * words}]
    count: int = server.post("/tokenize", {"model": MODEL, "messages": messages}).json()["count"]
    return count


def test_the_tokens_of_the_template_count_and_the_tokenize_route_counts_the_same(server: RunningServer) -> None:
    words = 8100
    words += WINDOW - 20 - count_chat_tokens(server, words)
    assert count_chat_tokens(server, words) == WINDOW - 20

    status, body = chat(server, words, 20)
    assert status == 200
    assert body["usage"]["prompt_tokens"] == WINDOW - 20
    assert body["usage"]["completion_tokens"] == 20

    for stream in (False, True):
        status, body = chat(server, words, 21, stream=stream)
        assert status == 400
        assert body["error"]["code"] == "context_length_exceeded"
        assert body["error"]["param"] == "messages"
        assert body["error"]["n_prompt_tokens"] == WINDOW - 20


def test_a_chat_without_a_limit_gets_the_rest_of_the_window(server: RunningServer) -> None:
    words = 8100
    words += WINDOW - 5 - count_chat_tokens(server, words)
    status, body = chat(server, words, None)
    assert status == 200
    assert body["usage"]["completion_tokens"] == 5
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["choices"][0]["length_cause"] == "context"


def test_a_window_beyond_the_model_is_announced_nowhere(server: RunningServer) -> None:
    client = server.client()
    for name, window in (("tolstoy", 8192), ("tolstoy-window", 8192), ("recall", 32768)):
        model = client.models.retrieve(name).model_dump()
        assert model["max_model_len"] == window
        assert model["context_length"] == window
        assert model["meta"]["n_ctx"] == window
