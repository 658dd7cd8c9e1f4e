"""What do HTTP, JSON, text and the worker's process cost? Streams from a real server beside the engine alone.

    python -m benchmarks.http_overhead [--model 1b:Q4_K_M | FILE | DIRECTORY] [--streams 16] [--prompt 32]
        [--tokens 128] [--threads 2] [--rounds 3]

The same requests (greedy, without an end) go to an engine in a process of its own, and as so many concurrent streams to
`transom serve`; A B A B. Prompts are short and answers long, so that the share of HTTP is as large as it gets. The time
is that of everything, from the first byte sent until the last stream has ended, and the client runs on the same
processors. The client reads bytes only, and counts tokens at the end.
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
from pathlib import Path

from benchmarks.against_llama_cpp import model_file
from benchmarks.kernels_matmul import processor
from benchmarks.side_process import Question, SideProcess
from tests.running_server import RunningServer


def some_tokens(count: int, first: int) -> list[int]:
    """Any tokens, other ones for every stream."""
    return [(first + 37 * i) % 500 for i in range(count)]


async def stream(port: int, prompt: list[int], max_tokens: int) -> bytes:
    """The whole answer of one streamed completion, headers and events."""
    body = json.dumps(
        {
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = "POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    answer = await reader.read()
    writer.close()
    return answer


async def all_streams(port: int, options: argparse.Namespace) -> list[bytes]:
    prompts = [some_tokens(options.prompt, first) for first in range(options.streams)]
    return await asyncio.gather(*(stream(port, prompt, options.tokens) for prompt in prompts))


def completion_tokens(answer: bytes) -> int:
    """From the usage that ends a stream."""
    for line in reversed(answer.splitlines()):
        if line.startswith(b"data: {") and (usage := json.loads(line[6:]).get("usage")):
            return int(usage["completion_tokens"])
    raise SystemExit(f"a stream without an end: {answer[-500:]!r}")


def http_seconds(server: RunningServer, options: argparse.Namespace) -> float:
    started = time.perf_counter()
    answers = asyncio.run(all_streams(server.port, options))
    seconds = time.perf_counter() - started
    assert all(completion_tokens(answer) == options.tokens for answer in answers), "a stream was cut"
    return seconds


def compare(options: argparse.Namespace, log: Path) -> None:
    model = model_file(options.model)
    kv_tokens = options.streams * (options.prompt + options.tokens + 64)
    engine = SideProcess(
        Path(sys.executable),
        "transom_side",
        str(model),
        "--threads",
        str(options.threads),
        "--kv-tokens",
        str(kv_tokens),
    )
    server = RunningServer.start(str(model), "--threads", str(options.threads), log=log)
    question = Question("generate", options.prompt, options.tokens, options.streams)
    seconds: dict[str, list[float]] = {"engine": [], "http": []}
    for measured in (False, *[True] * options.rounds):
        for name, value in (("engine", engine.ask(question)), ("http", http_seconds(server, options))):
            if measured:
                seconds[name].append(value)
    engine.stop()
    server.stop()
    total = options.streams * options.tokens
    speeds = {name: total / statistics.median(each) for name, each in seconds.items()}
    for name, each in seconds.items():
        print(f"{name:8}{speeds[name]:9.1f} tokens/s   {total / max(each):.1f} to {total / min(each):.1f}")
    print(f"HTTP to engine: {speeds['http'] / speeds['engine']:.3f}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="1b:Q4_K_M")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def main() -> None:
    options = parse()
    print(f"python -m benchmarks.http_overhead {' '.join(sys.argv[1:])}")
    print(f"{processor()}, {os.cpu_count()} CPUs, {options.threads} threads, Linux {platform.release()}", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        compare(options, Path(directory) / "server.log")


if __name__ == "__main__":
    main()
