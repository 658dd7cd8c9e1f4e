"""`LLM` over a fake engine: promise 1, generation, and what happens to the engine's request."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from tests.llm.fake_engine import FakeEngine, make_llm, outputs_of
from tests.tokenizer import small_tokenizers as small
from transom.errors import ContextLengthExceededError, EngineError, QueueFullError, RequestError
from transom.llm import GenerationRequest, TextDelta, collect
from transom.request import CacheOptions, CacheStrategy, FinishReason, Request, RequestOutput, SamplingParams, Usage

TOKENIZER = small.byte_level()
WORDS = TOKENIZER.encode("The quick brown fox", add_special_tokens=False)
LLM = make_llm(TOKENIZER, FakeEngine())


def _request(*stop: str) -> GenerationRequest:
    return GenerationRequest(Request("r", (1,), SamplingParams(max_tokens=9)), stop)


@pytest.mark.parametrize(
    ("num_prompt_tokens", "max_tokens", "granted"),
    [(8, None, 248), (200, 56, 56), (255, None, 1), (255, 1, 1), (0, 256, 256), (1, 1, 1)],
)
def test_what_fits_the_context_window_is_granted(num_prompt_tokens: int, max_tokens: int | None, granted: int) -> None:
    assert LLM.check_context(num_prompt_tokens, max_tokens, "prompt") == granted


@pytest.mark.parametrize(
    ("num_prompt_tokens", "max_tokens", "requested"),
    [(200, 57, 57), (256, None, 1), (256, 1, 1), (257, None, 1), (257, 100_000, 100_000), (1, 256, 256)],
)
def test_what_does_not_fit_is_refused_with_all_the_numbers(
    num_prompt_tokens: int, max_tokens: int | None, requested: int
) -> None:
    with pytest.raises(ContextLengthExceededError) as caught:
        LLM.check_context(num_prompt_tokens, max_tokens, "messages")
    error = caught.value
    assert (error.num_prompt_tokens, error.max_tokens, error.context_window) == (num_prompt_tokens, requested, 256)
    assert (error.param, error.code) == ("messages", "context_length_exceeded")
    assert ("lower max_tokens" in str(error)) == (num_prompt_tokens < 256)


def test_where_nothing_is_to_be_completed_the_refusal_speaks_of_the_input_alone() -> None:
    error = ContextLengthExceededError(num_prompt_tokens=300, max_tokens=0, context_window=256, param="input")
    assert "(300 in the input). " in str(error)
    assert str(error).endswith("; shorten the input.")


def test_token_ids_outside_the_vocabulary_are_refused() -> None:
    vocab_size = LLM.model_config.vocab_size
    LLM.check_token_ids([0, vocab_size - 1], "prompt")
    for wrong in (-1, vocab_size, 2**31):
        with pytest.raises(RequestError, match=str(wrong)):
            LLM.check_token_ids([0, wrong], "prompt")


def test_a_chat_becomes_tokens() -> None:
    messages = [{"role": "user", "content": "The"}, {"role": "assistant", "content": "dog"}]
    assert LLM.encode_chat(messages) == LLM.encode("The\n\ndog")
    assert LLM.decode(LLM.encode_chat(messages)) == "The\n\ndog"
    assert LLM.render_chat(messages, enable_thinking=False).text == "The\n\ndog"


@pytest.mark.parametrize("variables", [{"chat_template": "x"}, {"messages": []}, {"enable_thinking": {"a": 1}}])
def test_template_variables_that_a_request_may_not_set_are_refused(variables: dict[str, Any]) -> None:
    with pytest.raises((RequestError, TypeError)) as caught:
        LLM.encode_chat([{"role": "user", "content": "x"}], **variables)
    assert not isinstance(caught.value, RequestError) or caught.value.param == "chat_template_kwargs"


async def test_a_request_that_ends_by_itself_is_not_aborted() -> None:
    engine = FakeEngine(outputs_of(WORDS))
    completion = await collect(make_llm(TOKENIZER, engine).generate(_request()))
    assert completion.text == "The quick brown fox"
    assert (engine.aborted, engine.num_closed) == ([], 1)


async def test_a_stop_string_aborts_the_request_before_the_last_delta() -> None:
    engine = FakeEngine(outputs_of(WORDS)[:-1])
    aborted_at_end: list[str] = []
    async for delta in make_llm(TOKENIZER, engine).generate(_request("brown")):
        if delta.finish_reason is not None:
            aborted_at_end = list(engine.aborted)
    assert aborted_at_end == engine.aborted == ["r"]
    assert engine.num_closed == 1


async def test_what_was_forgotten_before_a_stop_string_is_asked_of_the_engine() -> None:
    played = outputs_of(WORDS)
    last = RequestOutput(
        "r", finish_reason=FinishReason.ABORT, usage=Usage(1, 9, 2, num_evicted_tokens=3, is_lossy=True)
    )
    engine = FakeEngine([*played[:-1], last])
    request = replace(_request("brown").request, cache=CacheOptions(CacheStrategy.FIFO))
    deltas = make_llm(TOKENIZER, engine).generate(GenerationRequest(request, ("brown",)))
    completion = await collect(deltas)
    assert (completion.text, completion.finish_reason) == ("The quick ", FinishReason.STOP)
    assert completion.usage == Usage(1, len(completion.token_ids), 2, num_evicted_tokens=3, is_lossy=True)
    assert engine.aborted == ["r"]


async def test_a_consumer_that_goes_away_aborts_the_request() -> None:
    engine = FakeEngine(outputs_of(WORDS))
    async with aclosing(make_llm(TOKENIZER, engine).generate(_request())) as deltas:
        async for _ in deltas:
            break
    assert (engine.aborted, engine.num_closed) == (["r"], 1)


async def test_a_cancelled_consumer_aborts_a_request_that_still_waits() -> None:
    engine = FakeEngine()

    async def consume() -> list[TextDelta]:
        return [delta async for delta in make_llm(TOKENIZER, engine).generate(_request())]

    task = asyncio.create_task(consume())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (engine.aborted, engine.num_closed) == (["r"], 1)


async def test_errors_of_admission_come_with_the_first_step() -> None:
    engine = FakeEngine(error=QueueFullError("full"))
    with pytest.raises(QueueFullError):
        await anext(make_llm(TOKENIZER, engine).generate(_request()))


async def test_an_error_inside_the_engine_is_raised() -> None:
    engine = FakeEngine([RequestOutput("r", finish_reason=FinishReason.ERROR, error="out of luck")])
    with pytest.raises(EngineError, match="out of luck"):
        await collect(make_llm(TOKENIZER, engine).generate(_request()))
    assert engine.aborted == []
