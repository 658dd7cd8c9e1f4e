"""Many clients at once; clients that vanish."""

from __future__ import annotations

import asyncio
import time

import httpx2 as httpx
import pytest

from tests.running_server import RunningServer, resident_mib

PROMPT = "Prince Andrew looked at the sky"


def wait_until_idle(server: RunningServer, seconds: float = 5.0) -> None:
    """Until no block is in use and no request is known; the metrics are refreshed about once per second."""
    deadline = time.monotonic() + seconds
    while True:
        used = server.metric("transom_kv_cache_used_bytes")
        active = server.metric("transom_num_requests_running") + server.metric("transom_num_requests_waiting")
        if used == 0 and active == 0:
            return
        assert time.monotonic() < deadline, f"{used} bytes of KV and {active} requests are still there"
        time.sleep(0.1)


async def test_thirty_two_streams_run_at_once_and_leave_nothing_behind(server: RunningServer) -> None:
    async with server.async_client() as client:

        async def stream(index: int) -> str:
            chunks = await client.completions.create(
                model="tolstoy", prompt=PROMPT, max_tokens=120, temperature=0, stream=True
            )
            return "".join([chunk.choices[0].text async for chunk in chunks])

        texts = await asyncio.gather(*(stream(index) for index in range(32)))
    assert len(set(texts)) == 1
    wait_until_idle(server)


async def test_a_hundred_clients_that_vanish_mid_stream_leave_nothing_behind(server: RunningServer) -> None:
    body = {"model": "tolstoy", "prompt": PROMPT, "max_tokens": 4000, "stream": True, "ignore_eos": True}

    async def vanish(client: httpx.AsyncClient) -> None:
        async with client.stream("POST", f"{server.url}/v1/completions", json=body) as response:
            assert response.status_code == 200
            async for line in response.aiter_lines():
                if line.startswith("data:"):
                    return

    async def wave(size: int) -> None:
        async with httpx.AsyncClient(verify=False, timeout=120, limits=httpx.Limits(max_connections=None)) as client:
            await asyncio.gather(*(vanish(client) for _ in range(size)))

    await wave(20)
    wait_until_idle(server)
    before = sum(resident_mib(pid) for pid in (server.process.pid, *server.worker_pids()))
    for _ in range(4):
        await wave(25)
    wait_until_idle(server)
    after = sum(resident_mib(pid) for pid in (server.process.pid, *server.worker_pids()))
    assert after - before < 32


@pytest.mark.parametrize("stream", [False, True])
def test_a_closed_connection_frees_the_blocks_within_a_moment(server: RunningServer, stream: bool) -> None:
    body = {"model": "recall", "prompt": [5] * 20000, "max_tokens": 10, "stream": stream}
    with pytest.raises(httpx.TimeoutException):
        httpx.post(f"{server.url}/v1/completions", json=body, timeout=0.5)
    wait_until_idle(server)
