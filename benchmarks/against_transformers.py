"""How fast are prefill and decode beside transformers + torch? Same weights, same threads, one run, A B A B.

    python -m benchmarks.against_transformers [--shape 1b] [--threads 2] [--isa avx2|native] [--rounds 5] [--json FILE]

Each engine and dtype is a process of its own that waits for commands, so that only one computes at a time and peak
memory can be read from outside. `--isa avx2` limits both sides to AVX2 (torch by the switches of oneDNN, ATen and MKL);
`native` lets both use all they have. Beside every decode figure stands the limit: bytes that must be read, over the
memory bandwidth measured in the same run.

A context of N tokens is filled with random keys and values on both sides: only the speed is measured here. Greedy
equality is the subject of `make parity`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

AVX2_ONLY = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
DECODE_STEPS = 8


class Side(Protocol):
    """One engine with one set of weights."""

    def prefill(self, num_tokens: int) -> float:
        """Seconds to compute a fresh prompt, up to the logits of its last token."""
        ...

    def decode(self, context: int) -> float:
        """Seconds per token behind a context of so many tokens."""
        ...


class TransomSide:
    """This project's model and cache, without server, scheduler and sampler."""

    def __init__(self, directory: Path, dtype: str, threads: int, isa: str) -> None:
        from tests.harness import Harness
        from transom import kernels

        kernels.set_num_threads(threads)
        if isa == "avx2":
            kernels.set_active_isa("avx2")
        self.harness = Harness(directory, kv_dtype="f16", kv_cache_ram_mb=1024)
        self.dtype = dtype

    def prefill(self, num_tokens: int) -> float:
        stream = self.harness.open()
        tokens = np.random.default_rng(0).integers(0, 1000, num_tokens).tolist()
        started = time.perf_counter()
        self.harness.step([(stream, tokens)], last_row_only=True)
        seconds = time.perf_counter() - started
        self.harness.close(stream)
        return seconds

    def decode(self, context: int) -> float:
        stream = self.harness.open()
        self.harness.fill(stream, context)
        self.harness.step([(stream, [7])], last_row_only=True)
        started = time.perf_counter()
        for _ in range(DECODE_STEPS):
            self.harness.step([(stream, [7])], last_row_only=True)
        seconds = (time.perf_counter() - started) / DECODE_STEPS
        self.harness.close(stream)
        return seconds


class TransformersSide:
    """transformers with its default attention (sdpa) and dynamic cache."""

    def __init__(self, directory: Path, dtype: str, threads: int) -> None:
        import torch
        import transformers

        torch.set_num_threads(threads)
        self.torch, self.transformers = torch, transformers
        self.dtype = getattr(torch, dtype)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=self.dtype).eval()

    def prefill(self, num_tokens: int) -> float:
        tokens = self.torch.randint(0, 1000, (1, num_tokens))
        with self.torch.inference_mode():
            started = time.perf_counter()
            self.model(tokens, logits_to_keep=1)
            return time.perf_counter() - started

    def decode(self, context: int) -> float:
        torch, config = self.torch, self.model.config
        cache = self.transformers.DynamicCache()
        shape = (1, config.num_key_value_heads, context, config.head_dim)
        for layer in range(config.num_hidden_layers if context else 0):
            cache.update(torch.randn(shape).to(self.dtype), torch.randn(shape).to(self.dtype), layer)
        token = torch.tensor([[7]])
        with torch.inference_mode():
            self.model(token, past_key_values=cache, use_cache=True)
            started = time.perf_counter()
            for _ in range(DECODE_STEPS):
                self.model(token, past_key_values=cache, use_cache=True)
            return (time.perf_counter() - started) / DECODE_STEPS


def serve_commands(options: argparse.Namespace) -> None:
    """The child process: reads `prefill N` and `decode N` lines, answers with seconds."""
    directory = Path(options.model)
    side: Side = (
        TransomSide(directory, options.dtype, options.threads, options.isa)
        if options.side == "transom"
        else TransformersSide(directory, options.dtype, options.threads)
    )
    print("ready", flush=True)
    for line in sys.stdin:
        what, size = line.split()
        print(getattr(side, what)(int(size)), flush=True)


@dataclass
class Child:
    """A process with one side in it."""

    process: subprocess.Popen[str]
    seconds: dict[tuple[str, int], list[float]] = field(default_factory=dict)

    @classmethod
    def start(cls, side: str, model: Path, dtype: str, options: argparse.Namespace) -> Child:
        environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
        if options.isa == "avx2":
            environment |= AVX2_ONLY
        command = [sys.executable, "-m", "benchmarks.against_transformers", "--side", side, "--model", str(model)]
        command += ["--dtype", dtype, "--threads", str(options.threads), "--isa", options.isa]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        child = cls(process)
        child.read_until_ready()
        return child

    def read_until_ready(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.strip() == "ready":
                return
        raise SystemExit("a side of the benchmark did not start")

    def measure(self, what: str, size: int) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{what} {size}\n")
        self.process.stdin.flush()
        self.seconds.setdefault((what, size), []).append(float(self.process.stdout.readline()))

    def median(self, what: str, size: int) -> float:
        return statistics.median(self.seconds[what, size])

    def peak_rss_mib(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def measure_bandwidth(threads: int) -> float:
    """Bytes per second that this machine's memory gives to so many threads."""
    from transom import kernels

    kernels.set_num_threads(threads)
    return max(kernels.measure_read_bandwidth(1 << 29) for _ in range(3))


def weight_bytes_per_token(config: dict[str, int], element_size: int) -> int:
    """Bytes of weights that a decode step must read."""
    hidden, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    heads, key_value_heads = config["num_attention_heads"], config["num_key_value_heads"]
    layer = hidden * head * (2 * heads + 2 * key_value_heads) + 3 * hidden * inner
    return (config["num_hidden_layers"] * layer + config["vocab_size"] * hidden) * element_size


def kv_bytes_per_token(config: dict[str, int], element_size: int) -> int:
    return 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * config["head_dim"] * element_size


def report(rows: list[dict[str, Any]]) -> None:
    print(f"{'what':34}{'transom':>12}{'transformers':>14}{'ratio':>8}{'limit':>10}{'of limit':>10}")
    for row in rows:
        limit = f"{row['limit']:10.1f}{row['transom'] / row['limit']:10.0%}" if row["limit"] else f"{'–':>10}{'–':>10}"
        print(
            f"{row['what']:34}{row['transom']:12.1f}{row['transformers']:14.1f}"
            f"{row['transom'] / row['transformers']:8.2f}{limit}",
            flush=True,
        )


def compare(
    dtype: str, model: Path, questions: list[tuple[str, int]], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Both sides, alternating; tokens per second."""
    config = json.loads((model / "config.json").read_text())
    bandwidths = [measure_bandwidth(options.threads)]
    sides = {name: Child.start(name, model, dtype, options) for name in ("transom", "transformers")}
    for what, size in questions:
        for _ in range(options.rounds):
            bandwidths.append(measure_bandwidth(options.threads))
            for child in sides.values():
                child.measure(what, size)
    bandwidth = statistics.median(bandwidths)
    print(f"\n{dtype}: memory gives {bandwidth / 1e9:.1f} GB/s to {options.threads} threads (median of the run)")
    rows = []
    element_size = 4 if dtype == "float32" else 2
    for what, size in questions:
        tokens = size if what == "prefill" else 1
        must_read = weight_bytes_per_token(config, element_size) + size * kv_bytes_per_token(config, 2)
        rows.append(
            {
                "what": f"{dtype} {what} {'of' if what == 'prefill' else 'at'} {size}, tokens/s",
                **{name: tokens / child.median(what, size) for name, child in sides.items()},
                "limit": bandwidth / must_read if what == "decode" else None,
            }
        )
    report(rows)
    for name, child in sides.items():
        print(f"peak RSS {name}: {child.peak_rss_mib():.0f} MiB")
        child.stop()
    return rows


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="1b")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--isa", choices=("avx2", "native"), default="native")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--json", type=Path)
    for hidden in ("--side", "--model", "--dtype"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.side:
        serve_commands(options)
        return
    from benchmarks.synthetic_model import synthetic_model

    print(f"python -m benchmarks.against_transformers {' '.join(sys.argv[1:])}")
    print(f"{platform.machine()}, {os.cpu_count()} cores, {options.threads} threads, {options.isa} instructions")
    rows: list[dict[str, Any]] = []
    for dtype in options.dtypes.split(","):
        model = synthetic_model(options.shape, dtype)
        questions = [("prefill", 512), ("decode", 16), ("decode", 4096)]
        rows += compare(dtype, model, questions, options)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
