"""litellm, unmodified: completions, streams, embeddings, and its exceptions."""

from __future__ import annotations

from typing import Any

import litellm
import pytest

from tests.running_server import RunningServer

MESSAGES = [{"role": "user", "content": "Natasha smiled and"}]


def arguments(server: RunningServer, **more: Any) -> dict[str, Any]:
    return {"model": "openai/tolstoy", "api_base": f"{server.url}/v1", "api_key": "unused", "num_retries": 0, **more}


def test_a_stream_equals_the_answer_in_one_piece(server: RunningServer) -> None:
    asked = arguments(server, messages=MESSAGES, max_tokens=20, temperature=0)
    whole = litellm.completion(**asked)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in litellm.completion(**asked, stream=True))
    assert text == whole.choices[0].message.content
    assert whole.usage.completion_tokens == 20


def test_embeddings_come_as_numbers(server: RunningServer) -> None:
    answer = litellm.embedding(**arguments(server, input=["War", "Peace"]))
    assert [len(item["embedding"]) for item in answer.data] == [len(answer.data[0]["embedding"])] * 2


def test_a_prompt_that_is_too_long_is_its_own_exception(server: RunningServer) -> None:
    with pytest.raises(litellm.ContextWindowExceededError):
        litellm.completion(**arguments(server, messages=[{"role": "user", "content": "and so " * 9000}]))


def test_refusals_are_its_exceptions(server: RunningServer) -> None:
    with pytest.raises(litellm.BadRequestError):
        litellm.completion(**arguments(server, messages=MESSAGES, temperature=3))
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(**{**arguments(server, messages=MESSAGES), "model": "openai/nobody"})
