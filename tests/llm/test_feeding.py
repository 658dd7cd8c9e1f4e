"""The sequences of one caller reach the engine in order, a few at a time, and all of them do."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

import pytest

from transom.errors import QueueFullError
from transom.llm import Allowance, GenerationRequest, TextDelta, feed
from transom.request import FinishReason, Request, SamplingParams, Usage

PLENTY = Allowance(max_sequences=100, max_tokens=10**6)


@dataclass
class Letters:
    """Spells the request with the i-th text; notes what it is asked, and how much at a time."""

    texts: Sequence[str]
    refuses: Callable[[int], bool] = lambda index: False
    """Whether the queue is full for a request, when it comes."""
    error: Exception | None = None
    """Raised at the end of the first text."""
    begun: list[int] = field(default_factory=list)
    running: set[int] = field(default_factory=set)
    most_running: int = 0

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TextDelta]:
        """One delta per letter, and the end."""
        index = int(request.request.request_id)
        self.begun.append(index)
        if self.refuses(index):
            raise QueueFullError("full", retry_after_seconds=0.001)
        self.running.add(index)
        self.most_running = max(self.most_running, len(self.running))
        try:
            for letter in self.texts[index]:
                await asyncio.sleep(0)
                yield TextDelta(letter)
            if self.error is not None and index == 0:
                raise self.error
            yield TextDelta(finish_reason=FinishReason.LENGTH, usage=Usage(1, len(self.texts[index])))
        finally:
            self.running.discard(index)


def requests_of(count: int, num_prompt_tokens: int = 1) -> list[GenerationRequest]:
    prompt = tuple(range(num_prompt_tokens))
    return [GenerationRequest(Request(str(index), prompt, SamplingParams(9))) for index in range(count)]


async def spell(letters: Letters, allowance: Allowance = PLENTY, num_prompt_tokens: int = 1) -> list[str]:
    requests = requests_of(len(letters.texts), num_prompt_tokens)
    texts = [""] * len(requests)
    async for index, delta in feed(letters.generate, requests, allowance):
        texts[index] += delta.text
    return texts


async def test_sequences_are_interleaved_and_each_keeps_its_order() -> None:
    letters = Letters(["abc", "defgh", ""])
    assert await spell(letters) == ["abc", "defgh", ""]
    assert letters.most_running == 3
    assert not letters.running


@pytest.mark.parametrize("max_sequences", [1, 2, 7])
async def test_no_more_sequences_than_allowed_are_begun_and_in_order(max_sequences: int) -> None:
    letters = Letters([str(number) for number in range(50)])
    assert await spell(letters, Allowance(max_sequences, 10**6)) == letters.texts
    assert letters.most_running == max_sequences
    assert letters.begun == list(range(50))


async def test_long_prompts_are_begun_as_their_tokens_are_allowed() -> None:
    size = requests_of(1, 1000)[0].request.size_in_tokens
    letters = Letters(["abc"] * 9)
    assert await spell(letters, Allowance(100, 2 * size), 1000) == letters.texts
    assert letters.most_running == 2


async def test_a_prompt_longer_than_allowed_is_served_alone() -> None:
    letters = Letters(["abc"] * 4)
    assert await spell(letters, Allowance(100, 1), 1000) == letters.texts
    assert letters.most_running == 1


async def test_nothing_is_begun_after_the_consumer_has_gone() -> None:
    letters = Letters(["abc"] * 9)
    async with aclosing(feed(letters.generate, requests_of(9), Allowance(2, 10**6))) as deltas:
        async for _ in deltas:
            break
    assert letters.begun == [0, 1]
    assert not letters.running


async def test_a_cancelled_consumer_closes_every_sequence() -> None:
    letters = Letters(["a" * 10_000, "b" * 10_000, "c"])
    task = asyncio.create_task(spell(letters, Allowance(2, 10**6)))
    await asyncio.sleep(0.01)
    assert letters.running == {0, 1}
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not letters.running
    assert letters.begun == [0, 1]


async def test_an_error_in_one_sequence_is_raised_and_closes_the_others() -> None:
    letters = Letters(["d", "abcdefgh", "x"], error=RuntimeError("broken"))
    with pytest.raises(RuntimeError, match="broken"):
        await spell(letters, Allowance(2, 10**6))
    assert not letters.running
    assert letters.begun == [0, 1]


async def test_a_queue_that_is_full_from_the_start_is_an_error() -> None:
    letters = Letters(["abc", "def"], refuses=lambda index: True)
    with pytest.raises(QueueFullError):
        await spell(letters)


async def test_a_queue_that_is_full_later_is_waited_out() -> None:
    letters = Letters(["abc", "def", "ghi", "jkl"])
    letters.refuses = lambda index: index >= 2 and letters.begun.count(index) < 4
    assert await spell(letters, Allowance(2, 10**6)) == letters.texts
    assert [letters.begun.count(index) for index in range(4)] == [1, 1, 4, 4]


async def test_prompts_are_forgotten_when_their_consumer_was_cancelled() -> None:
    class Watched(GenerationRequest):
        """Can be referred to weakly."""

    async def consume(request: GenerationRequest) -> None:
        async with aclosing(feed(Letters(["a" * 10_000]).generate, [request], PLENTY)) as deltas:
            async for _ in deltas:
                pass

    request = Watched(Request("0", (1, 2, 3), SamplingParams(9)))
    watch = weakref.ref(request)
    gc.disable()
    try:
        task = asyncio.create_task(consume(request))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait({task})
        del task, request
        assert watch() is None
    finally:
        gc.enable()
