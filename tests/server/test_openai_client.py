"""The official client, unmodified, against a real socket: typed answers, streams, and its exception classes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest

from tests.server.running import Running, running
from tests.server.served import RECITED, RecitingEngine
from transom.engine import EngineState, EngineStatus
from transom.errors import EngineError, EngineRestartingError, QueueFullError, TransomError
from transom.server.settings import ServerSettings

KEY = "sk-test"


@asynccontextmanager
async def client_of(server: Running, key: str = KEY) -> AsyncIterator[openai.AsyncOpenAI]:
    """Without retries, which would hide errors."""
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0, timeout=10) as client:
        yield client


async def test_completions_streaming_and_not() -> None:
    async with running() as server, client_of(server) as client:
        arguments: dict[str, Any] = {"model": "tiny", "prompt": "abc", "max_tokens": 30, "logprobs": 1}
        whole = await client.completions.create(**arguments)
        stream = await client.completions.create(**arguments, stream=True, stream_options={"include_usage": True})
        chunks = [chunk async for chunk in stream]
    assert whole.choices[0].text == RECITED[:30].decode()
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
    assert whole.usage is not None
    assert chunks[-1].usage == whole.usage
    assert whole.usage.prompt_tokens_details is not None
    assert whole.usage.prompt_tokens_details.cached_tokens == 0
    assert whole.choices[0].logprobs is not None


async def test_chat_streaming_and_not() -> None:
    async with running() as server, client_of(server) as client:
        messages: Any = [{"role": "user", "content": "Hello"}]
        whole = await client.chat.completions.create(model="tiny", messages=messages, max_tokens=30, n=2, seed=1)
        stream = await client.chat.completions.create(
            model="tiny", messages=messages, max_completion_tokens=30, n=2, seed=1, stream=True
        )
        texts = ["", ""]
        async for chunk in stream:
            texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert [choice.message.content for choice in whole.choices] == texts
    assert whole.choices[0].message.role == "assistant"


async def test_models_are_listed_and_retrieved_also_by_a_name_with_a_slash() -> None:
    async with running() as server, client_of(server) as client:
        assert [model.id async for model in client.models.list()] == ["tiny"]
        model = await client.models.retrieve("org/tiny-alias-0")
    assert model.id == "tiny"
    assert model.model_dump()["context_length"] == 256


@pytest.mark.parametrize(
    ("arguments", "error", "code"),
    [
        ({"temperature": 3}, openai.BadRequestError, "invalid_value"),
        ({"extra_body": {"maxtokens": 3}}, openai.BadRequestError, "unknown_parameter"),
        ({"suffix": "x"}, openai.BadRequestError, "unsupported_parameter"),
        ({"max_tokens": 300}, openai.BadRequestError, "context_length_exceeded"),
        ({"model": "nobody"}, openai.NotFoundError, "model_not_found"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_refusals_become_the_clients_exceptions(
    arguments: dict[str, Any], error: type[openai.APIStatusError], code: str, stream: bool
) -> None:
    async with running() as server, client_of(server) as client:
        with pytest.raises(error) as caught:
            await client.completions.create(**{"model": "tiny", "prompt": "abc", "stream": stream, **arguments})
    assert caught.value.code == code
    assert caught.value.request_id


@pytest.mark.parametrize(
    ("engine", "code"),
    [
        (RecitingEngine(refusal=QueueFullError("full")), "queue_full"),
        (RecitingEngine(refusal=EngineRestartingError("died")), "engine_restarting"),
        (RecitingEngine(refusal=EngineError("failed")), "internal_error"),
        (RecitingEngine(status=EngineStatus(EngineState.STARTING)), "model_loading"),
    ],
)
async def test_failures_of_the_server_become_internal_server_errors(engine: RecitingEngine, code: str) -> None:
    async with running(engine) as server, client_of(server) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.completions.create(model="tiny", prompt="abc")
    assert caught.value.code == code


async def test_a_stream_that_breaks_raises_and_keeps_the_code() -> None:
    failure: TransomError = EngineRestartingError("died")
    async with running(RecitingEngine(fails_after=2, failure=failure)) as server, client_of(server) as client:
        stream = await client.completions.create(model="tiny", prompt="abc", stream=True)
        with pytest.raises(openai.APIError) as caught:
            async for _ in stream:
                pass
    assert caught.value.code == "engine_restarting"


async def test_a_wrong_key_is_an_authentication_error_and_the_right_one_works() -> None:
    settings = ServerSettings(api_keys=(KEY,), drain_timeout=2)
    async with running(settings=settings) as server:
        async with client_of(server, key="wrong") as client:
            with pytest.raises(openai.AuthenticationError):
                await client.models.retrieve("tiny")
        async with client_of(server) as client:
            assert (await client.models.retrieve("tiny")).id == "tiny"


async def test_leaving_a_stream_early_aborts_the_engine() -> None:
    engine = RecitingEngine(holds_after=5)
    async with running(engine) as server, client_of(server) as client:
        stream = await client.completions.create(model="tiny", prompt="abc", max_tokens=100, stream=True)
        await anext(aiter(stream))
        await stream.close()
        async with asyncio.timeout(3):
            while engine.running:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
    assert engine.aborted
