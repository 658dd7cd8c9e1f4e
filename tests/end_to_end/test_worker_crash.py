"""A worker that is killed takes its own requests down with a clear error, and nothing else."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator

import httpx2 as httpx
import openai
import pytest

from tests.running_server import RunningServer

PROMPT = "Prince Andrew looked at the sky"


@pytest.fixture(scope="module")
def crashing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server of its own: these tests kill its workers."""
    running = RunningServer.start(log=tmp_path_factory.mktemp("crashing") / "log.txt")
    yield running
    assert running.stop() == 0


def worker_of(server: RunningServer, model: str) -> int:
    """The worker's process id, as the model's entry shows it."""
    pid: int = server.get(f"/v1/models/{model}").json()["meta"]["worker_pid"]
    assert pid in server.worker_pids()
    return pid


async def test_kill_minus_nine_under_load_is_survived(crashing: RunningServer) -> None:
    async with crashing.async_client() as client:

        async def ask(model: str) -> str | openai.APIError:
            try:
                answer = await client.completions.create(
                    model=model, prompt=PROMPT, max_tokens=600, temperature=0, extra_body={"ignore_eos": True}
                )
                return answer.choices[0].text
            except openai.APIError as error:
                return error

        doomed = [asyncio.create_task(ask("tolstoy")) for _ in range(8)]
        spared = [asyncio.create_task(ask("tolstoy-window")) for _ in range(2)]
        await asyncio.sleep(0.5)
        os.kill(worker_of(crashing, "tolstoy"), signal.SIGKILL)

        for outcome in await asyncio.gather(*doomed):
            assert isinstance(outcome, openai.InternalServerError)
            assert outcome.status_code == 503
            assert outcome.code == "engine_restarting"
        live = crashing.get("/health/live")
        assert live.status_code == 200
        assert all(isinstance(outcome, str) for outcome in await asyncio.gather(*spared))

        deadline = time.monotonic() + 20
        while isinstance(outcome := await ask("tolstoy"), openai.APIError):
            assert time.monotonic() < deadline, outcome
            await asyncio.sleep(0.1)
        assert outcome


def test_a_stream_cut_by_a_crash_ends_with_an_error_event_and_no_done(crashing: RunningServer) -> None:
    body = {"model": "tolstoy", "prompt": PROMPT, "max_tokens": 4000, "stream": True, "ignore_eos": True}
    with httpx.stream("POST", f"{crashing.url}/v1/completions", json=body, timeout=60) as response:
        lines = response.iter_lines()
        next(line for line in lines if line.startswith("data:"))
        os.kill(worker_of(crashing, "tolstoy"), signal.SIGKILL)
        rest = [line for line in lines if line.startswith("data:")]
    assert '"engine_restarting"' in rest[-1]
    assert not any("[DONE]" in line for line in rest)
