"""How much does loading one model slow down another one that answers, and how long does the load take then?

    python -m benchmarks.loading_beside_decode [--model 1b:Q4_K_M] [--loaded 1b:F16] [--threads 2] [--rounds 3]

One worker decodes a single sequence all the time; a second one loads its model, alone and beside it, again and again.
The rate of the first is counted while nothing else runs, and during the loads. Medians of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import statistics
import time
from contextlib import suppress
from pathlib import Path

import psutil

from benchmarks.against_llama_cpp import model_file
from benchmarks.kernels_matmul import processor
from transom.config.engine_config import resolve
from transom.config.registry_config import ModelEntry
from transom.engine import EngineClient
from transom.engine.loading_priority import NICENESS
from transom.registry.model_files import read_model_config
from transom.request import Request, SamplingParams, TokenIds

ALONE_SECONDS = 3.0


def client_of(path: Path, num_threads: int) -> EngineClient:
    entry = ModelEntry.for_path(path, tier_config={"kv_cache_ram_mb": 512})
    return EngineClient(*resolve(entry, read_model_config(path), num_threads=num_threads), name=entry.id)


class Decoding:
    """One endless answer, whose tokens are counted."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client
        self.num_tokens = 0
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        for number in range(1000):
            request = Request(str(number), TokenIds(range(16)), SamplingParams(max_tokens=1000, ignore_eos=True))
            async for output in self._client.generate(request):
                self.num_tokens += len(output.token_ids)

    async def end(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task


async def load_seconds(client: EngineClient) -> float:
    started = time.perf_counter()
    await client.start()
    seconds = time.perf_counter() - started
    await client.close()
    return seconds


async def measure(options: argparse.Namespace) -> None:
    answering = client_of(model_file(options.model), options.threads)
    loading = client_of(model_file(options.loaded), options.threads)
    await load_seconds(loading)  # its file is in the page cache from here on
    await answering.start()
    alone, beside, quiet_loads, busy_loads = [], [], [], []
    for _ in range(options.rounds):
        quiet_loads.append(await load_seconds(loading))
        decoding = Decoding(answering)
        while decoding.num_tokens < 5:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        before = decoding.num_tokens
        await asyncio.sleep(ALONE_SECONDS)
        alone.append((decoding.num_tokens - before) / ALONE_SECONDS)
        before = decoding.num_tokens
        seconds = await load_seconds(loading)
        busy_loads.append(seconds)
        beside.append((decoding.num_tokens - before) / seconds)
        await decoding.end()
    await answering.close()
    rate, slowed = statistics.median(alone), statistics.median(beside)
    print(f"decode alone               {rate:6.1f} tokens/s")
    print(f"decode while a model loads {slowed:6.1f} tokens/s, {slowed / rate:.0%}")
    print(f"load alone                 {statistics.median(quiet_loads):6.2f} s")
    print(f"load beside decode         {statistics.median(busy_loads):6.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="1b:Q4_K_M")
    parser.add_argument("--loaded", default="1b:F16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(
        f"{processor()}, {os.cpu_count()} cores, Python {platform.python_version()}, load {psutil.getloadavg()[0]:.1f}"
    )
    print(f"{options.model} decodes, {options.loaded} is loaded, {options.threads} threads each, niceness {NICENESS}")
    asyncio.run(measure(options))


if __name__ == "__main__":
    main()
