"""What happens at ten times the load? How fast refusals are, and whether accepted requests keep their pace.

    python -m benchmarks.overload [--model tolstoy | FILE | DIRECTORY] [--seqs 8] [--tokens 64] [--prompt 200]
        [--seconds 8] [--times 10] [--threads N]

A real server with two API keys. One key keeps as many streams open as the server computes at a time, one after the
other; first alone, then while the other key sends `--times` as many requests as were served in the same time before,
each on a connection of its own and without regard to the answers. A A B B. The client runs on the same processors.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.kernels_matmul import processor
from tests.running_server import RunningServer
from transom.cli.sources import bundled_registry
from transom.config.keys_file import ApiKey, KeysFile, digest_of, new_key
from transom.config.registry_config import ModelEntry, RegistryConfig

WAITING_PER_KEY = 8


@dataclass
class Seen:
    """What one phase brought."""

    seconds: float = 0.0
    num_tokens: int = 0
    num_answers: int = 0
    intervals: list[float] = field(default_factory=list)
    """Between the events of one accepted stream of the steady key."""
    first_tokens: list[float] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)
    """From the connection's opening to the end of the answer."""
    statuses: Counter[int] = field(default_factory=Counter)

    @property
    def answers_per_second(self) -> float:
        return self.num_answers / self.seconds


def request_bytes(key: str, options: argparse.Namespace, number: int) -> bytes:
    prompt = [(number * 31 + index * 7) % 500 for index in range(options.prompt)]
    body = json.dumps(
        {"prompt": prompt, "max_tokens": options.tokens, "temperature": 0, "ignore_eos": True, "stream": True}
    ).encode()
    head = (
        "POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {key}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def ask(port: int, request: bytes, seen: Seen, *, is_steady: bool) -> int:
    """One request to its end; the status."""
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        status = int((await reader.readline()).split()[1])
        last = began
        while line := await reader.readline():
            if line.startswith(b"data: {"):
                now = time.perf_counter()
                if is_steady:
                    (seen.first_tokens if last == began else seen.intervals).append(now - last)
                last = now
                seen.num_tokens += 1
        if status != 200:
            seen.refusals.append(time.perf_counter() - began)
        seen.statuses[status] += 1
        seen.num_answers += status == 200
        return status
    finally:
        writer.close()


async def steady_stream(port: int, key: str, options: argparse.Namespace, seen: Seen, number: int, end: float) -> None:
    while time.perf_counter() < end:
        number += 1000
        await ask(port, request_bytes(key, options, number), seen, is_steady=True)


async def flood(port: int, key: str, options: argparse.Namespace, seen: Seen, rate: float, end: float) -> None:
    """Open loop: a request every 1 / rate seconds, whatever became of those before."""
    tasks: set[asyncio.Task[int]] = set()
    began = time.perf_counter()
    number = 0
    while (now := time.perf_counter()) < end:
        while number < (now - began) * rate:
            number += 1
            task = asyncio.create_task(ask(port, request_bytes(key, options, number), seen, is_steady=False))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.sleep(0.001)
    for task in tuple(tasks):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def phase(port: int, keys: dict[str, str], options: argparse.Namespace, rate: float) -> Seen:
    """`rate`: requests per second of the flood; 0: none."""
    seen, began = Seen(), time.perf_counter()
    end = began + options.seconds
    streams = [steady_stream(port, keys["steady"], options, seen, number, end) for number in range(options.seqs)]
    await asyncio.gather(*streams, *([flood(port, keys["flood"], options, seen, rate, end)] if rate else ()))
    seen.seconds = time.perf_counter() - began
    return seen


def prepare(directory: Path, model: str) -> tuple[Path, dict[str, str]]:
    """A registry of the one model with a keys file of two keys; and these."""
    keys = {name: new_key() for name in ("steady", "flood")}
    entries = tuple(ApiKey(name=name, sha256=digest_of(key.encode()).hex(), tenant=name) for name, key in keys.items())
    KeysFile(keys=entries).write(directory / "keys.json")
    known = {entry.id: entry.path for entry in RegistryConfig.load(bundled_registry()).models}
    entry = ModelEntry.for_path(Path(known.get(model, Path(model))), id="measured")
    config = {
        "server": {"api_keys_file": "keys.json", "max_waiting_per_key": WAITING_PER_KEY},
        "models": [{"id": entry.id, "path": str(entry.path)}],
    }
    (directory / "config.json").write_text(json.dumps(config))
    return directory / "config.json", keys


def show(name: str, seen: Seen) -> None:
    pace = statistics.median(seen.intervals) * 1000
    late = statistics.quantiles(seen.intervals, n=100)[-1] * 1000
    first = statistics.median(seen.first_tokens) * 1000
    print(
        f"{name:9}{seen.num_tokens / seen.seconds:8.0f} tokens/s {seen.answers_per_second:7.1f} answers/s"
        f"   steady key: {pace:.1f} ms per token (99%: {late:.1f}), first token {first:.0f} ms"
    )
    if seen.refusals:
        refusals = sorted(seen.refusals)
        cuts = statistics.quantiles(refusals, n=100)
        print(
            f"         {len(refusals)} refused {dict(seen.statuses)}: median {cuts[49] * 1000:.1f} ms, 99% "
            f"{cuts[98] * 1000:.1f} ms, last {refusals[-1] * 1000:.1f} ms"
        )


def compare(options: argparse.Namespace, directory: Path) -> None:
    config, keys = prepare(directory, options.model)
    flags = ("--config", str(config), "--max-num-seqs", str(options.seqs), "--threads", str(options.threads))
    server = RunningServer.start(*flags, log=directory / "server.log")
    try:
        asyncio.run(phase(server.port, keys, options, 0))
        alone = [asyncio.run(phase(server.port, keys, options, 0)) for _ in range(2)]
        rate = options.times * statistics.mean(seen.answers_per_second for seen in alone)
        flooded = [asyncio.run(phase(server.port, keys, options, rate)) for _ in range(2)]
    finally:
        server.stop()
    for seen in alone:
        show("alone", seen)
    print(f"flood of {rate:.0f} requests/s")
    for seen in flooded:
        show("flooded", seen)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tolstoy")
    parser.add_argument("--seqs", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--times", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    return parser.parse_args()


def main() -> None:
    options = parse()
    print(f"python -m benchmarks.overload {' '.join(sys.argv[1:])}")
    print(f"{processor()}, {os.cpu_count()} CPUs, {options.threads} threads, Linux {platform.release()}", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        compare(options, Path(directory))


if __name__ == "__main__":
    main()
