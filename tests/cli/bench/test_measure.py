"""One measurement, by a clock that an engine of the tests moves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

import pytest

from tests.server.served import RecitingEngine
from transom.cli.bench.measure import Sample, measure, random_prompt
from transom.errors import EngineError
from transom.request import CacheOptions, FinishReason, Request, RequestOutput, Usage


@dataclass
class TimedEngine(RecitingEngine):
    """Gives these outputs, each so many seconds after the last."""

    outputs: Sequence[tuple[float, RequestOutput]] = ()
    now: float = 100.0
    asked: list[Request] = field(default_factory=list)

    async def generate(self, request: Request) -> AsyncIterator[RequestOutput]:  # type: ignore[override]
        self.asked.append(request)
        for seconds, output in self.outputs:
            self.now += seconds
            yield output


def outputs(num_cached: int = 0, forgotten: int = 0) -> list[tuple[float, RequestOutput]]:
    usage = Usage(1024, 5, num_cached_tokens=num_cached, num_evicted_tokens=forgotten)
    last = RequestOutput("a", (7,), finish_reason=FinishReason.LENGTH, usage=usage, num_computed_tokens=1028)
    return [
        (3.0, RequestOutput("a", num_computed_tokens=512)),
        (2.0, RequestOutput("a", (1,), num_computed_tokens=1024)),
        (0.5, RequestOutput("a", (2, 3, 4), num_computed_tokens=1027)),
        (0.5, last),
    ]


async def measured(engine: TimedEngine, depth: int = 512, num_tokens: int = 1024) -> Sample:
    return await measure(engine, "a", [1] * num_tokens, depth, 4, CacheOptions(), clock=lambda: engine.now)


async def test_the_chunks_before_the_depth_are_not_timed() -> None:
    assert await measured(TimedEngine(outputs=outputs(forgotten=9))) == Sample(512 / 2, 4 / 1, 9)


async def test_a_chunk_that_reaches_over_the_depth_is_timed_as_a_whole() -> None:
    assert (await measured(TimedEngine(outputs=outputs()), depth=300)).prefill_tokens_per_second == 1024 / 5


async def test_what_was_found_in_the_cache_was_not_computed() -> None:
    found = outputs(num_cached=256)[1:]
    assert (await measured(TimedEngine(outputs=found))).prefill_tokens_per_second == (1024 - 256) / 2


async def test_nothing_is_guessed_and_ends_are_ignored() -> None:
    engine = TimedEngine(outputs=outputs())
    await measured(engine)
    [request] = engine.asked
    assert request.max_draft_tokens == 0
    assert (request.sampling.max_tokens, request.sampling.temperature, request.sampling.ignore_eos) == (5, 0.0, True)


async def test_a_request_that_fails_on_its_way_is_no_figure() -> None:
    given = outputs()
    seconds, last = given[-1]
    failed = replace(last, finish_reason=FinishReason.ERROR, error="the disk is full")
    with pytest.raises(EngineError, match="the disk is full"):
        await measured(TimedEngine(outputs=[*given[:-1], (seconds, failed)]))


async def test_tokens_that_come_all_at_once_are_no_figure() -> None:
    seconds, last = outputs()[-1]
    with pytest.raises(EngineError, match="measure more of them"):
        await measured(TimedEngine(outputs=[(seconds, replace(last, token_ids=(1, 2, 3, 4, 5)))]))


def test_rounds_share_the_depth_and_nothing_behind_it() -> None:
    first, second, deeper = (random_prompt(1000, *rest) for rest in ((64, 32, 0), (64, 32, 1), (128, 32, 0)))
    assert first[:64] == second[:64] == deeper[:64]
    assert first[64:] != second[64:]
    assert [len(first), len(deeper)] == [96, 160]
    assert 0 <= min(deeper) <= max(deeper) < 1000
