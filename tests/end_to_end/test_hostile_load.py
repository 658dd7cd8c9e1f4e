"""Floods of long prompts: memory stays within the budgets and comes back, and the server stays awake."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator

import httpx2 as httpx
import pytest

from tests.running_server import RunningServer, resident_mib

MAX_RAM_MB = 176
HEADERS = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def flooded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server of its own, with little memory."""
    budgets = ("--max-ram-mb", str(MAX_RAM_MB), "--kv-cache-ram-mb", "32")
    running = RunningServer.start("tolstoy", *budgets, log=tmp_path_factory.mktemp("flooded") / "log.txt")
    yield running
    assert running.stop() == 0


def num_unfinished(server: RunningServer) -> float:
    return server.metric("transom_num_requests_waiting") + server.metric("transom_num_requests_running")


async def eventually(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


def test_more_prompts_than_the_queue_takes_are_served_to_one_caller(flooded: RunningServer) -> None:
    answer = flooded.post("/v1/completions", {"prompt": ["a"] * 400, "max_tokens": 1, "temperature": 0})
    assert answer.status_code == 200
    assert len({choice["text"] for choice in answer.json()["choices"]}) == 1
    assert answer.json()["usage"]["completion_tokens"] == 400


async def test_memory_is_bounded_and_comes_back_when_callers_with_long_prompts_vanish(flooded: RunningServer) -> None:
    prompt = [500 + index % 500 for index in range(8000)]
    body = json.dumps({"prompt": [prompt] * 250, "max_tokens": 4}, separators=(",", ":")).encode()
    [worker], server = flooded.worker_pids(), flooded.process.pid
    before, peaks = resident_mib(server), [0.0, 0.0]
    async with httpx.AsyncClient(verify=False, timeout=60) as client:
        url = f"{flooded.url}/v1/completions"
        flood = [asyncio.create_task(client.post(url, content=body, headers=HEADERS)) for _ in range(4)]

        def watch() -> bool:
            peaks[:] = max(peaks[0], resident_mib(worker)), max(peaks[1], resident_mib(server))
            return num_unfinished(flooded) > 0

        await eventually(watch, 30)
        for _ in range(50):
            watch()
            await asyncio.sleep(0.02)
        for caller in flood:
            caller.cancel()
        await asyncio.gather(*flood, return_exceptions=True)
    await eventually(lambda: num_unfinished(flooded) == 0, 10)
    assert peaks[0] < MAX_RAM_MB
    assert peaks[1] < before + 300
    await eventually(lambda: resident_mib(server) < before + 100, 30)


async def test_a_body_made_to_be_slow_does_not_hold_up_the_others(flooded: RunningServer) -> None:
    body = b"[" * 65 + b'\\"' * 30_000
    async with httpx.AsyncClient(verify=False, timeout=20) as client:
        started = time.monotonic()
        answer = await client.post(f"{flooded.url}/v1/completions", content=body, headers=HEADERS)
        assert answer.status_code == 400
        assert (await client.get(f"{flooded.url}/health/live")).status_code == 200
        assert time.monotonic() - started < 2
