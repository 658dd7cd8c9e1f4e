"""The client with a real worker process that nobody harms: generation, aborts, refusals, statistics."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.engine.observed_client import KV_BYTES, Observed, collect, endless, eventually
from tests.fakes import byte_request, write_tiny_llama
from transom.engine import EngineClient, EngineStats
from transom.engine.merging import merge_all
from transom.errors import BudgetExceededError, RequestError
from transom.request import FinishReason

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EngineClient]:
    """One worker for all tests of this file; each leaves it idle."""
    directory = tmp_path_factory.mktemp("tiny-llama")
    write_tiny_llama(directory)
    client = Observed(directory).client
    await client.start()
    yield client
    await client.close()


def stats_of(client: EngineClient) -> EngineStats:
    stats = client.stats()
    assert stats is not None
    return stats


async def test_a_request_is_generated_and_counted(client: EngineClient) -> None:
    output = await collect(client, byte_request("hello", max_tokens=6, ignore_eos=True))
    assert len(output.token_ids) == 6
    assert output.finish_reason is FinishReason.LENGTH
    assert output.usage is not None
    assert (output.usage.num_prompt_tokens, output.usage.num_completion_tokens) == (5, 6)
    assert client.num_requests == 0


async def test_fifty_concurrent_requests_equal_the_same_ones_alone(client: EngineClient) -> None:
    requests = [
        byte_request("abcdefg"[: 1 + n % 7], request_id=str(n), max_tokens=12, temperature=1.5, seed=n % 5)
        for n in range(50)
    ]
    together = await asyncio.gather(*[collect(client, request) for request in requests])
    for request, output in zip(requests[:10], together, strict=False):
        assert (await collect(client, request)).token_ids == output.token_ids
    assert client.num_requests == 0


async def test_loading_reports_memory_and_threads(client: EngineClient) -> None:
    report = client.report
    assert report is not None
    assert report.process_id == client.process_id
    assert report.num_threads == 1
    assert report.weights_bytes > 100_000
    assert 0 < report.kv_bytes <= KV_BYTES


async def test_statistics_arrive_and_end_with_nothing_in_use(client: EngineClient) -> None:
    await eventually(lambda: client.stats() is not None)
    before = stats_of(client).scheduler.num_generated_tokens
    await collect(client, byte_request("hello", max_tokens=6, ignore_eos=True))
    await eventually(lambda: stats_of(client).scheduler.num_generated_tokens >= before + 6)
    assert stats_of(client).cache.num_bytes_used == 0
    assert client.seconds_since_sign_of_life < 2.0


async def test_who_looks_sees_windows_and_statistics_of_one_moment(client: EngineClient) -> None:
    outputs = client.generate(endless("seen"))
    await anext(outputs)
    first, second = await asyncio.gather(client.look(), client.look())
    assert first is not None
    assert first is second, "the worker was asked twice"
    assert client.stats() is first.stats
    [window] = first.windows
    assert window.stats in first.stats.cache.sequences
    assert window.stats.request_id == "seen"
    await outputs.aclose()
    await eventually(lambda: client.num_requests == 0)
    await eventually(lambda: stats_of(client).scheduler.num_running == 0)
    last = await client.look()
    assert last is not None
    assert last.windows == ()


async def test_closing_the_iterator_frees_the_worker(client: EngineClient) -> None:
    outputs = client.generate(endless("closed"))
    await anext(outputs)
    await eventually(lambda: stats_of(client).cache.num_bytes_used > 0)
    await outputs.aclose()
    assert client.num_requests == 0
    await eventually(lambda: stats_of(client).cache.num_bytes_used == 0)


async def test_cancelling_the_reader_frees_the_worker(client: EngineClient) -> None:
    task = asyncio.create_task(collect(client, endless("cancelled")))
    await eventually(lambda: stats_of(client).scheduler.num_running == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: stats_of(client).scheduler.num_running == 0)


async def test_an_abort_ends_the_iterator_with_its_own_reason(client: EngineClient) -> None:
    outputs = client.generate(endless("aborted"))
    await anext(outputs)
    await client.abort("aborted")
    await client.abort("unknown")
    last = [output async for output in outputs][-1]
    assert last.finish_reason is FinishReason.ABORT
    assert last.usage is not None


async def test_refusals_of_the_engine_arrive_as_what_they_are(client: EngineClient) -> None:
    with pytest.raises(RequestError) as caught:
        await collect(client, byte_request(logit_bias={5000: 1.0}))
    assert caught.value.param == "logit_bias"
    with pytest.raises(BudgetExceededError):
        await collect(client, byte_request(max_tokens=10**6))
    assert client.num_requests == 0


async def test_an_id_cannot_be_used_twice_at_a_time(client: EngineClient) -> None:
    outputs = client.generate(endless("twice"))
    await anext(outputs)
    with pytest.raises(RequestError, match="running"):
        await collect(client, endless("twice"))
    await outputs.aclose()


async def test_a_slow_reader_gets_everything_in_fewer_pieces(client: EngineClient) -> None:
    outputs = client.generate(byte_request(max_tokens=300, ignore_eos=True))
    first = await anext(outputs)
    await asyncio.sleep(0.5)
    rest = [output async for output in outputs]
    assert len(merge_all([first, *rest])["r"].token_ids) == 300
    assert len(rest) < 290


async def test_nothing_is_left_of_a_thousand_requests(client: EngineClient) -> None:
    for batch in range(10):
        requests = [byte_request(request_id=f"{batch}-{n}", max_tokens=1) for n in range(60)]
        await asyncio.gather(*[collect(client, request) for request in requests])
    assert client.num_requests == 0
    assert len(asyncio.all_tasks()) < 10


async def test_signals_of_a_terminal_do_not_reach_the_worker(client: EngineClient) -> None:
    assert client.process_id is not None
    assert os.getsid(client.process_id) == client.process_id


async def test_interrupts_and_termination_are_left_to_the_parent(client: EngineClient) -> None:
    process_id = client.process_id
    assert process_id is not None
    os.kill(process_id, signal.SIGINT)
    os.kill(process_id, signal.SIGTERM)
    assert len((await collect(client, byte_request(max_tokens=3, ignore_eos=True))).token_ids) == 3
