"""A client of real workers with a tiny model, shared by the tests of the client."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.fakes import byte_request, small_engine_config
from transom.config.model_config import ModelConfig
from transom.engine import EngineClient, EngineStatus
from transom.engine.merging import merge_all
from transom.engine.watchdog import WatchLimits
from transom.request import Request, RequestOutput

KV_BYTES = 2**25


class Observed:
    """A client and the states it went through."""

    def __init__(
        self,
        model_path: Path,
        max_ram_bytes: int | None = None,
        *,
        restart_delays_seconds: tuple[float, ...] = (0.05, 0.3),
        watch_limits: WatchLimits = WatchLimits(),  # noqa: B008 - frozen
        check_files: Callable[[], None] = lambda: None,
    ) -> None:
        self.states: list[EngineStatus] = []
        self.client = EngineClient(
            ModelConfig.from_hf(model_path),
            small_engine_config(model_path, kv_cache_ram_bytes=KV_BYTES, max_ram_bytes=max_ram_bytes),
            name="tiny",
            on_state_change=self.states.append,
            check_files=check_files,
            restart_delays_seconds=restart_delays_seconds,
            watch_limits=watch_limits,
        )


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
