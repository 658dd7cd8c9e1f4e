"""The client when workers die, cannot be started, or are told to end; every test has workers of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from tests.engine.observed_client import Observed, collect, endless, eventually, kill
from tests.fakes import byte_request, write_tiny_llama
from transom.engine import EngineClient, EngineState, EngineStats
from transom.engine.watchdog import WatchLimits
from transom.errors import (
    ConfigError,
    DrainingError,
    EngineError,
    EngineRestartingError,
    ModelLoadingError,
    WeightsError,
)
from transom.request import Request
from transom.weights.file_stamp import FileStamps


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tiny-llama")
    write_tiny_llama(directory)
    return directory


@pytest.fixture
async def observed(model_path: Path) -> AsyncIterator[Observed]:
    observed = Observed(model_path)
    await observed.client.start()
    yield observed
    await observed.client.close()


@pytest.fixture
def client(observed: Observed) -> EngineClient:
    return observed.client


def own_workers() -> list[psutil.Process]:
    """Other tests of the session may have children of other kinds."""
    return [each for each in psutil.Process().children() if "transom.engine.worker" in command_of(each)]


def command_of(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def num_generated(stats: EngineStats | None) -> int:
    return 0 if stats is None else stats.scheduler.num_generated_tokens


async def test_a_killed_worker_fails_its_requests_at_once_and_is_replaced(
    observed: Observed, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    client = observed.client
    tasks = [asyncio.create_task(collect(client, endless(str(n)))) for n in range(4)]
    await eventually(lambda: (stats := client.stats()) and stats.scheduler.num_running == 4)
    before = client.counted()
    first = kill(client)
    killed = time.monotonic()
    assert await client.look() is None
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert time.monotonic() - killed < 0.5
    assert all(isinstance(outcome, EngineRestartingError) for outcome in outcomes)
    assert client.num_requests == 0
    with pytest.raises(EngineRestartingError) as caught:
        await collect(client, endless())
    assert 1.0 <= caught.value.retry_after_seconds <= 2.0
    await eventually(lambda: client.status.state is EngineState.READY, 60.0)
    assert client.process_id != first
    assert client.num_restarts == 1
    assert len((await collect(client, byte_request(max_tokens=3, ignore_eos=True))).token_ids) == 3
    await eventually(lambda: num_generated(client.stats()) == 3)
    assert num_generated(client.counted()) >= num_generated(before) + 3 > 3
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
    await eventually(lambda: any("could not be restarted" in (each.reason or "") for each in observed.states), 60.0)
    assert client.status.state is EngineState.RESTARTING
    (tmp_path / "away").rename(weights)
    await eventually(lambda: client.num_restarts == 1, 60.0)
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
    await eventually(own_workers)
    own_workers()[0].kill()
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


@pytest.mark.parametrize("pause", [0.0, 0.05, 0.06, 0.08, 0.15, 0.3])
async def test_closing_at_any_moment_of_a_restart_leaves_no_process(
    observed: Observed, caplog: pytest.LogCaptureFixture, pause: float
) -> None:
    caplog.set_level(logging.CRITICAL)
    kill(observed.client)
    await asyncio.sleep(pause)
    await observed.client.close()
    assert observed.client.process_id is None
    assert not own_workers()


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
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert any(getattr(record, "model", None) == "tiny" for record in warnings)


def long_requests(count: int) -> list[Request]:
    """More than the socket and its buffers take at once."""
    return [byte_request(b"a" * 4000, request_id=str(n), max_tokens=1000, ignore_eos=True) for n in range(count)]


async def test_callers_that_vanish_while_their_submissions_wait_leave_nothing_behind(client: EngineClient) -> None:
    process = psutil.Process(client.process_id)
    process.suspend()
    tasks = [asyncio.create_task(collect(client, request)) for request in long_requests(200)]
    await asyncio.sleep(0.2)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert client.num_requests == 0
    process.resume()
    output = await asyncio.wait_for(collect(client, byte_request(request_id="next", max_tokens=1)), 5.0)
    assert output.finish_reason is not None
    await eventually(
        lambda: (stats := client.stats()) and stats.scheduler.num_running + stats.scheduler.num_waiting == 0
    )
    stats = client.stats()
    assert stats is not None
    assert stats.scheduler.num_prompt_tokens < 100 * 4000, "most were never submitted"


async def test_submissions_that_wait_for_a_worker_that_dies_fail_at_once(
    client: EngineClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    psutil.Process(client.process_id).suspend()
    tasks = [asyncio.create_task(collect(client, request)) for request in long_requests(200)]
    await asyncio.sleep(0.2)
    kill(client)
    outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5.0)
    assert all(isinstance(outcome, EngineRestartingError) for outcome in outcomes)
    assert client.num_requests == 0


async def test_a_worker_that_is_stopped_is_killed_and_replaced(
    model_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    observed = Observed(model_path, watch_limits=WatchLimits(silent=2.0))
    client = observed.client
    await client.start()
    first = psutil.Process(client.process_id)
    task = asyncio.create_task(collect(client, endless()))
    await eventually(lambda: (stats := client.stats()) and stats.scheduler.num_running == 1)
    first.suspend()
    with pytest.raises(EngineRestartingError):
        await asyncio.wait_for(task, 6.0)
    await eventually(lambda: client.status.state is EngineState.READY, 60.0)
    assert not first.is_running()
    assert any("no sign of life" in (status.reason or "") for status in observed.states)
    await client.close()


async def test_a_crash_loop_ends_in_failure_with_its_reason_and_can_be_started_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    write_tiny_llama(tmp_path)
    client = Observed(tmp_path, restart_delays_seconds=(0.0,)).client
    await client.start()
    weights = tmp_path / "model.safetensors"
    weights.rename(tmp_path / "away")
    kill(client)
    await eventually(lambda: client.status.state is EngineState.FAILED, 90.0)
    assert "could not be restarted" in (client.status.reason or "")
    assert "5 restarts within 10 minutes" in (client.status.reason or "")
    with pytest.raises(ModelLoadingError, match="could not be restarted"):
        await collect(client, byte_request())
    (tmp_path / "away").rename(weights)
    await client.start()
    assert len((await collect(client, byte_request(max_tokens=3, ignore_eos=True))).token_ids) == 3
    await client.close()


async def test_a_client_that_was_closed_can_be_started_again(observed: Observed) -> None:
    first = observed.client.process_id
    await observed.client.close()
    await observed.client.start()
    assert observed.client.process_id != first
    assert len((await collect(observed.client, byte_request(max_tokens=3, ignore_eos=True))).token_ids) == 3


async def test_weights_that_were_replaced_are_not_loaded(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path)
    observed = Observed(tmp_path, check_files=FileStamps.of(tmp_path).check)
    client = observed.client
    await client.start()
    await client.close()
    weights = tmp_path / "model.safetensors"
    copy = tmp_path / "copy"
    copy.write_bytes(weights.read_bytes())
    copy.rename(weights)
    with pytest.raises(WeightsError, match=r"model\.safetensors was replaced"):
        await client.start()
    assert client.status.state is EngineState.FAILED
    assert client.process_id is None
