"""kill -9 of a worker with cold blocks, again and again, at random moments: nothing wrong is said or found or left.

Each worker finds what those before it have published, and says with it what one says that has everything in RAM.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from transom.config.engine_config import MIB, EngineConfig
from transom.config.model_config import ModelConfig
from transom.engine import EngineClient, EngineState
from transom.errors import EngineRestartingError
from transom.request import Request, SamplingParams, Usage

RECALL = Path(__file__).parents[2] / "transom" / "models_builtin" / "recall"
MAX_SSD_BYTES = 24 * MIB
RESTART_SECONDS = 5.0

IN_RAM = EngineConfig(
    model_path=RECALL,
    context_window=32768,
    kv_dtype="f16",
    kv_cache_ram_bytes=64 * MIB,
    max_ram_bytes=None,
    num_threads=2,
)
MAX_TOKENS = 20
SAMPLING = SamplingParams(max_tokens=MAX_TOKENS, temperature=0.0, ignore_eos=True)


def prompt(number: int) -> tuple[int, ...]:
    """3000 tokens, of which the last six occurred before: there is something to recall."""
    tokens = random.Random(number).choices(range(2, 4096), k=2994)
    return (*tokens, *tokens[1000:1006])


PROMPTS = [prompt(number) for number in range(3)]


def physical_bytes(directory: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in (directory, *directory.iterdir()))


def client_of(engine_config: EngineConfig) -> EngineClient:
    return EngineClient(
        ModelConfig.from_hf(RECALL), engine_config, name="recall", restart_delays_seconds=(0.0,), max_restarts=10**6
    )


async def ask(client: EngineClient, number: int, name: str, said: list[int]) -> int | None:
    """Collects what is said; how many tokens were cached, or None if the worker died meanwhile."""
    usage: Usage | None = None
    try:
        async for output in client.generate(Request(name, PROMPTS[number], SAMPLING)):
            assert output.error is None
            said += output.token_ids
            usage = output.usage
    except EngineRestartingError:
        return None
    assert usage is not None
    return usage.num_cached_tokens


@pytest.fixture(scope="module")
def expected() -> list[list[int]]:
    async def ask_all() -> list[list[int]]:
        client = client_of(IN_RAM)
        await client.start()
        answers: list[list[int]] = [[] for _ in PROMPTS]
        for number, said in enumerate(answers):
            assert await ask(client, number, f"in-ram-{number}", said) is not None
        await client.close()
        return answers

    return asyncio.run(ask_all())


@pytest.fixture
async def tiered(tmp_path: Path) -> AsyncIterator[EngineClient]:
    """A sixth of one request in RAM."""
    tiers = replace(IN_RAM, kv_cache_ram_bytes=MIB, ssd_path=tmp_path / "recall", max_ssd_bytes=MAX_SSD_BYTES)
    client = client_of(tiers)
    await client.start()
    yield client
    await client.close()


async def kill_under_load(client: EngineClient, number: int, expected: list[list[int]], delay: float) -> None:
    """Three requests run, or some of them do already, when the worker is killed."""
    said: list[list[int]] = [[] for _ in PROMPTS]
    async with asyncio.TaskGroup() as load:
        for index, tokens in enumerate(said):
            load.create_task(ask(client, index, f"doomed-{number}-{index}", tokens))
        await asyncio.sleep(delay)
        assert client.process_id is not None
        os.kill(client.process_id, signal.SIGKILL)
    for tokens, right in zip(said, expected, strict=True):
        assert tokens == right[: len(tokens)]


async def wait_for_restart(client: EngineClient, num_restarts: int) -> None:
    deadline = time.monotonic() + RESTART_SECONDS
    while client.num_restarts < num_restarts or client.status.state is not EngineState.READY:
        assert time.monotonic() < deadline, client.status
        await asyncio.sleep(0.01)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("num_kills", [3, pytest.param(200, marks=pytest.mark.slow)])
async def test_after_every_kill_a_worker_is_back_in_time_and_says_what_ram_alone_says(
    tiered: EngineClient, expected: list[list[int]], tmp_path: Path, num_kills: int
) -> None:
    moments = random.Random(1)
    num_cached_tokens = 0
    for number in range(num_kills):
        await kill_under_load(tiered, number, expected, delay=moments.uniform(0.0, 0.8))
        await wait_for_restart(tiered, number + 1)
        said: list[int] = []
        found = await ask(tiered, number % 3, f"after-{number}", said)
        assert said == expected[number % 3]
        assert found is not None
        num_cached_tokens += found
        assert physical_bytes(tmp_path / "recall") <= MAX_SSD_BYTES
    assert tiered.num_restarts == num_kills
    assert num_cached_tokens > 0, "nothing that was left by a killed worker was found"
    deadline = time.monotonic() + RESTART_SECONDS
    while (stats := tiered.stats()) is None or stats.cache.tiers[-1].transfers.num_bytes_read == 0:
        assert time.monotonic() < deadline, "nothing was ever read from the cold tier"
        await asyncio.sleep(0.05)
