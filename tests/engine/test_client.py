"""The client with real worker processes: generation, aborts, crashes, restarts, shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from tests.fakes import byte_request, small_engine_config, write_tiny_llama
from transom.config.model_config import ModelConfig
from transom.engine import EngineClient, EngineState, EngineStatus
from transom.engine.merging import merge_all
from transom.errors import (
    BudgetExceededError,
    ConfigError,
    DrainingError,
    EngineError,
    EngineRestartingError,
    ModelLoadingError,
    RequestError,
    WeightsError,
)
from transom.request import FinishReason, Request, RequestOutput

KV_BYTES = 2**25


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tiny-llama")
    write_tiny_llama(directory)
    return directory


class Observed:
    """A client and the states it went through."""

    def __init__(self, model_path: Path, max_ram_bytes: int | None = None) -> None:
        self.states: list[EngineStatus] = []
        self.client = EngineClient(
            ModelConfig.from_hf(model_path),
            small_engine_config(model_path, kv_cache_ram_bytes=KV_BYTES, max_ram_bytes=max_ram_bytes),
            name="tiny",
            on_state_change=self.states.append,
            restart_delays_seconds=(0.05, 0.3),
        )


@pytest.fixture
async def observed(model_path: Path) -> AsyncIterator[Observed]:
    observed = Observed(model_path)
    await observed.client.start()
    yield observed
    await observed.client.close()


@pytest.fixture
def client(observed: Observed) -> EngineClient:
    return observed.client


def endless(request_id: str = "r") -> Request:
    """Seconds of work."""
    return byte_request("abc", request_id=request_id, max_tokens=20_000, ignore_eos=True)


async def collect(client: EngineClient, request: Request) -> RequestOutput:
    outputs = [output async for output in client.generate(request)]
    return merge_all(outputs)[request.request_id]


async def eventually(condition: Callable[[], object], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def kill(client: EngineClient) -> int:
    process_id = client.process_id
    assert process_id is not None
    os.kill(process_id, signal.SIGKILL)
    return process_id


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
    await collect(client, byte_request("hello", max_tokens=6, ignore_eos=True))
    await eventually(lambda: (stats := client.stats()) and stats.scheduler.num_generated_tokens == 6)
    stats = client.stats()
    assert stats is not None
    assert stats.cache.num_bytes_used == 0
    assert client.seconds_since_sign_of_life < 2.0


async def test_closing_the_iterator_frees_the_worker(client: EngineClient) -> None:
    outputs = client.generate(endless())
    await anext(outputs)
    await outputs.aclose()
    assert client.num_requests == 0
    await eventually(lambda: (stats := client.stats()) and stats.scheduler.num_generated_tokens > 0)
    await eventually(lambda: (stats := client.stats()) and stats.cache.num_bytes_used == 0)


async def test_cancelling_the_reader_frees_the_worker(client: EngineClient) -> None:
    task = asyncio.create_task(collect(client, endless()))
    await eventually(lambda: (stats := client.stats()) and stats.scheduler.num_running == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: (stats := client.stats()) and stats.scheduler.num_running == 0)


async def test_an_abort_ends_the_iterator_with_its_own_reason(client: EngineClient) -> None:
    outputs = client.generate(endless())
    await anext(outputs)
    await client.abort("r")
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
    outputs = client.generate(endless())
    await anext(outputs)
    with pytest.raises(RequestError, match="running"):
        await collect(client, endless())
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


async def test_a_killed_worker_fails_its_requests_at_once_and_is_replaced(
    observed: Observed, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    client = observed.client
    tasks = [asyncio.create_task(collect(client, endless(str(n)))) for n in range(4)]
    await eventually(lambda: (stats := client.stats()) and stats.scheduler.num_running == 4)
    first = kill(client)
    killed = time.monotonic()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert time.monotonic() - killed < 0.5
    assert all(isinstance(outcome, EngineRestartingError) for outcome in outcomes)
    assert client.num_requests == 0
    with pytest.raises(EngineRestartingError) as caught:
        await collect(client, endless())
    assert 1.0 <= caught.value.retry_after_seconds <= 2.0
    await eventually(lambda: client.status.state is EngineState.READY, 20.0)
    assert client.process_id != first
    assert client.num_restarts == 1
    assert len((await collect(client, byte_request(max_tokens=3, ignore_eos=True))).token_ids) == 3
    states = [status.state for status in observed.states]
    assert states[:2] == [EngineState.STARTING, EngineState.READY]
    assert states[-1] is EngineState.READY
    assert any("signal 9" in (status.reason or "") for status in observed.states)
    assert not psutil.pid_exists(first)


async def test_a_worker_that_cannot_come_back_is_tried_again_until_it_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    write_tiny_llama(tmp_path)
    observed = Observed(tmp_path)
    client = observed.client
    await client.start()
    weights = tmp_path / "model.safetensors"
    weights.rename(tmp_path / "away")
    kill(client)
    await eventually(lambda: any("could not be restarted" in (each.reason or "") for each in observed.states), 20.0)
    assert client.status.state is EngineState.RESTARTING
    (tmp_path / "away").rename(weights)
    await eventually(lambda: client.num_restarts == 1, 20.0)
    await client.close()


async def test_a_damaged_model_is_refused_with_the_loaders_own_error(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 100)
    observed = Observed(tmp_path)
    with pytest.raises(WeightsError):
        await observed.client.start()
    assert observed.client.status.state is EngineState.FAILED
    with pytest.raises(ModelLoadingError):
        await collect(observed.client, byte_request())
    await observed.client.close()


async def test_too_little_memory_is_refused_with_the_numbers(model_path: Path) -> None:
    observed = Observed(model_path, max_ram_bytes=2**20)
    with pytest.raises(ConfigError, match="max_ram_mb is 1"):
        await observed.client.start()


async def test_a_worker_that_dies_while_loading_is_an_error(model_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    observed = Observed(model_path)
    start = asyncio.create_task(observed.client.start())
    children = psutil.Process()
    await eventually(lambda: children.children())
    children.children()[0].kill()
    with pytest.raises(EngineError, match="signal 9"):
        await start
    assert observed.client.status.state is EngineState.FAILED


async def test_closing_ends_the_process_and_fails_what_runs(observed: Observed) -> None:
    client = observed.client
    process_id = client.process_id
    assert process_id is not None
    task = asyncio.create_task(collect(client, endless()))
    await eventually(lambda: client.num_requests == 1)
    await client.close()
    with pytest.raises(DrainingError):
        await task
    with pytest.raises(DrainingError):
        await collect(client, endless())
    assert not psutil.pid_exists(process_id)
    assert client.status.state is EngineState.STOPPED
    await client.close()


async def test_draining_lets_what_runs_finish(observed: Observed) -> None:
    client = observed.client
    task = asyncio.create_task(collect(client, byte_request(max_tokens=1000, ignore_eos=True)))
    await eventually(lambda: client.num_requests == 1)
    await client.close(drain_seconds=10.0)
    assert len((await task).token_ids) == 1000


async def test_interrupts_and_termination_are_left_to_the_parent(client: EngineClient) -> None:
    process_id = client.process_id
    assert process_id is not None
    os.kill(process_id, signal.SIGINT)
    os.kill(process_id, signal.SIGTERM)
    assert len((await collect(client, byte_request(max_tokens=3, ignore_eos=True))).token_ids) == 3


@pytest.mark.parametrize("pause", [0.0, 0.05, 0.06, 0.08, 0.15, 0.3])
async def test_closing_at_any_moment_of_a_restart_leaves_no_process(
    observed: Observed, caplog: pytest.LogCaptureFixture, pause: float
) -> None:
    caplog.set_level(logging.CRITICAL)
    kill(observed.client)
    await asyncio.sleep(pause)
    await observed.client.close()
    assert observed.client.process_id is None
    assert not psutil.Process().children()


async def test_a_worker_dies_with_its_parent(model_path: Path) -> None:
    """A process that starts a client and is killed must not leave its worker behind."""
    script = (
        "import asyncio, sys, pathlib\n"
        "from tests.fakes import small_engine_config\n"
        "from transom.config.model_config import ModelConfig\n"
        "from transom.engine import EngineClient\n"
        "async def main():\n"
        "    path = pathlib.Path(sys.argv[1])\n"
        "    client = EngineClient(ModelConfig.from_hf(path), small_engine_config(path))\n"
        "    print((await client.start()).process_id, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(model_path), stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert parent.stdout is not None
    worker = psutil.Process(int(await parent.stdout.readline()))
    parent.kill()
    await parent.wait()
    await eventually(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)


async def test_log_lines_of_the_worker_appear_in_ours_at_their_level(
    client: EngineClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with contextlib.suppress(EngineRestartingError):
        outputs = client.generate(endless())
        await anext(outputs)
        assert client.process_id is not None
        os.kill(client.process_id, signal.SIGSEGV)
        await anext(outputs)
    await eventually(lambda: any("Segmentation fault" in record.message for record in caplog.records))
    assert any(record.levelno == logging.WARNING and "[tiny]" in record.message for record in caplog.records)
