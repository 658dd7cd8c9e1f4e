"""What does it cost that most of the KV is on SSD? Decode and prefill beside all in RAM and beside the disk's limit.

    python -m benchmarks.two_tiers decode  [--shape 1b] [--context 16384] [--rounds 5] [--directory .]
    python -m benchmarks.two_tiers prefill [--shape 135m] [--context 16384] [--rounds 1] [--directory .]
    python -m benchmarks.two_tiers before CHECKOUT [--shape 1b] [--context 4096] [--rounds 5]

`decode`: one sequence behind a context of random keys and values, of which a quarter is in RAM and the rest in files
under `--directory`. The limit of a token is the slower of two: all in RAM, or the cold bytes over what fio reads per
second with O_DIRECT in the same directory, in each round the best of sequential and random reads of several sizes and
numbers of jobs. `prefill`: the same prompt with a quarter of its KV in RAM, and with all of it. `before`: decode all
in RAM, here and in another checkout that has an environment of its own. All sides take turns in one run; medians count.

Needs fio for `decode` (`apt-get install fio`). Weights are random, see `benchmarks.synthetic_model`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.kernels_matmul import processor
from benchmarks.synthetic_model import synthetic_model
from tests.harness import Harness, Stream
from transom import kernels
from transom.cache import BLOCK_SIZE
from transom.layers.forward_batch import AttentionSpec

HOT_SHARE = 4  # one part in so many is in RAM
RING_SHARE = 8  # of the arena, as `staging_ring` has it
DECODE_STEPS = 8
SPARE_TOKENS = 1024  # for the tokens that are decoded
FIO_MODES = ("read", "randread")
FIO_BLOCKS = ("256k", "1m")
FIO_JOBS = (1, 2, 4)
MIB = 2**20


@dataclass
class Measured:
    """Seconds of one side, round by round."""

    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


class Sides:
    """One model twice: all of its KV in RAM, and a quarter of it."""

    def __init__(self, model: Path, context: int, directory: Path) -> None:
        self.ram = Harness(model, kv_dtype="f16")
        num_bytes = self.ram.cache.budget.peak_bytes(context + SPARE_TOKENS)
        self.ram = Harness(model, kv_dtype="f16", model=self.ram.model, kv_cache_ram_bytes=num_bytes)
        hot_bytes = self.ram.cache.budget.peak_bytes(context) // HOT_SHARE
        self.tiered = Harness(
            model,
            kv_dtype="f16",
            model=self.ram.model,
            kv_cache_ram_bytes=hot_bytes * RING_SHARE // (RING_SHARE - 1),
            max_ssd_bytes=2 * num_bytes + 64 * MIB,
            ssd_path=directory / "cold",
        )
        self.context = context

    def describe(self) -> str:
        budget = self.tiered.cache.budget
        whole = self.ram.cache.budget.peak_bytes(self.context) / MIB
        hot, ring = (slots * budget.slot_bytes / MIB for slots in (budget.num_hot_slots, budget.num_staging_slots))
        return (
            f"{self.context} tokens, {whole:.0f} MiB of KV; in RAM {hot:.0f} MiB and a staging ring of {ring:.0f} MiB"
        )

    def close(self) -> None:
        self.tiered.cache.shut_down()


def fill(harness: Harness, num_tokens: int) -> Stream:
    """A stream with random keys and values, without the matrix products and with little attention."""
    stream, config = harness.open(range(num_tokens)), harness.model_config
    rng = np.random.default_rng(0)
    while (start := stream.num_computed_tokens) < num_tokens:
        count = harness.cache.prefill_chunk(stream.handle, num_tokens - start)
        assert harness.cache.reserve(stream.handle, start + count)
        layer_cache = harness.cache.layer_cache([(stream.handle, start, count)])
        heads = rng.standard_normal((count, config.num_attention_heads, config.head_dim), dtype=np.float32)
        key_value = np.ascontiguousarray(heads[:, : config.num_key_value_heads])
        for layer in range(config.num_hidden_layers):
            layer_cache.attend(layer, heads, key_value, key_value, AttentionSpec(scale=1.0, window=BLOCK_SIZE))
        harness.cache.commit(stream.handle, start + count)
        stream.num_computed_tokens = start + count
    return stream


def decode_seconds(harness: Harness, stream: Stream) -> float:
    """Per token."""
    harness.step([(stream, [7])], last_row_only=True)
    started = time.perf_counter()
    for _ in range(DECODE_STEPS):
        harness.step([(stream, [7])], last_row_only=True)
    return (time.perf_counter() - started) / DECODE_STEPS


def prefill_seconds(harness: Harness, num_tokens: int) -> float:
    """A fresh prompt, in the chunks that the cache asks for."""
    tokens = np.random.default_rng(0).integers(0, 1000, num_tokens).tolist()
    stream = harness.open(tokens)
    started = time.perf_counter()
    while (start := stream.num_computed_tokens) < num_tokens:
        count = harness.cache.prefill_chunk(stream.handle, num_tokens - start)
        harness.step([(stream, tokens[start : start + count])], last_row_only=True)
    seconds = time.perf_counter() - started
    harness.close(stream)
    return seconds


def fio(path: Path, num_bytes: int, mode: str, block: str, jobs: int) -> float:
    """Bytes per second that fio reads or writes with O_DIRECT, each job in its part of the file."""
    share = num_bytes // jobs // MIB * MIB
    options = {
        "name": mode, "filename": path, "rw": mode, "bs": block, "direct": 1, "ioengine": "psync", "thread": 1,
        "numjobs": jobs, "size": share, "offset_increment": share, "group_reporting": 1, "output-format": "json",
    }  # fmt: skip
    command = ["fio", *(f"--{key}={value}" for key, value in options.items())]
    output = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    return float(output["jobs"][0]["write" if mode == "write" else "read"]["bw_bytes"])


def fio_readers(directory: Path, num_bytes: int) -> dict[str, Callable[[], float]]:
    """Ways to read a file as large as the cold part, which is written here."""
    if shutil.which("fio") is None:
        raise SystemExit("fio is missing: apt-get install fio")
    path = directory / "fio"
    fio(path, num_bytes, "write", "1m", 1)

    def reader(mode: str, block: str, jobs: int) -> Callable[[], float]:
        return lambda: fio(path, num_bytes, mode, block, jobs)

    ways = itertools.product(FIO_MODES, FIO_BLOCKS, FIO_JOBS)
    return {f"{mode} {block} x {jobs}": reader(mode, block, jobs) for mode, block, jobs in ways}


def compare_decode(options: argparse.Namespace, directory: Path) -> None:
    sides = Sides(synthetic_model(options.shape, "bfloat16"), options.context, directory)
    print(f"{options.shape}: {sides.describe()}", flush=True)
    in_ram, in_tiers = fill(sides.ram, options.context), fill(sides.tiered, options.context)
    [shown] = sides.tiered.cache.stats().sequences
    cold_bytes = sides.ram.cache.budget.peak_bytes(shown.num_cold_tokens)
    print(f"cold: {shown.num_cold_tokens} tokens, {cold_bytes / MIB:.0f} MiB, read for every token", flush=True)
    readers = fio_readers(directory, cold_bytes)
    ram, tiered, disk = Measured(), Measured(), Measured()
    before = sides.tiered.cache.stats().tiers[-1].transfers
    for _ in range(options.rounds):
        ram.seconds.append(decode_seconds(sides.ram, in_ram))
        rates = {name: read() for name, read in readers.items()}
        disk.seconds.append(cold_bytes / max(rates.values()))
        tiered.seconds.append(decode_seconds(sides.tiered, in_tiers))
    limit = max(ram.median, disk.median)
    after = sides.tiered.cache.stats().tiers[-1].transfers
    num_steps = options.rounds * (DECODE_STEPS + 1)
    print(
        f"per token: {(after.num_bytes_read - before.num_bytes_read) / num_steps / MIB:.0f} MiB read in fact, "
        f"{1e3 * (after.stall_seconds - before.stall_seconds) / num_steps:.1f} ms waited for them; "
        f"disk: {cold_bytes / disk.median / 1e9:.2f} GB/s (last by fio {max(rates, key=rates.__getitem__)})"
    )
    print(f"{'decode, ms per token':34}{'median':>10}{'least':>10}{'most':>10}")
    for name, side in {"all in RAM": ram, "the disk alone": disk, "a quarter in RAM": tiered}.items():
        print(f"{name:34}{1e3 * side.median:10.1f}{1e3 * min(side.seconds):10.1f}{1e3 * max(side.seconds):10.1f}")
    print(f"of the limit ({'disk' if limit == disk.median else 'RAM'}): {limit / tiered.median:.2f}")
    sides.close()


def compare_prefill(options: argparse.Namespace, directory: Path) -> None:
    sides = Sides(synthetic_model(options.shape, "bfloat16"), options.context, directory)
    print(f"{options.shape}: {sides.describe()}", flush=True)
    ram, tiered = Measured(), Measured()
    for _ in range(options.rounds):
        tiered.seconds.append(prefill_seconds(sides.tiered, options.context))
        time.sleep(options.pause)
        ram.seconds.append(prefill_seconds(sides.ram, options.context))
    print(f"{'prefill, tokens per second':34}{'median':>10}")
    for name, side in {"all in RAM": ram, "a quarter in RAM": tiered}.items():
        print(f"{name:34}{options.context / side.median:10.1f}")
    stats = sides.tiered.cache.stats().tiers[-1].transfers
    print(
        f"of all in RAM: {ram.median / tiered.median:.2f}; read {stats.num_bytes_read / MIB / options.rounds:.0f} MiB, "
        f"written {stats.num_bytes_written / MIB / options.rounds:.0f} MiB, "
        f"waited {stats.stall_seconds / options.rounds:.1f} s"
    )
    sides.close()


class Checkout:
    """Another source tree, or this one, with its own interpreter: decodes in a child process."""

    def __init__(self, root: Path, python: Path, model: Path, threads: int) -> None:
        command = [str(python), "-m", "benchmarks.against_transformers", "--side", "transom", "--model", str(model)]
        command += ["--dtype", "bfloat16", "--threads", str(threads)]
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root, env=environment
        )
        self.measured = Measured()
        while (line := self._read_line()) != "ready":
            print(line)

    def measure(self, context: int) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"decode {context}\n")
        self._process.stdin.flush()
        self.measured.seconds.append(float(self._read_line()))

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def _read_line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a side of the benchmark ended")
        return line.strip()


def compare_before(options: argparse.Namespace) -> None:
    model = synthetic_model(options.shape, "bfloat16").resolve()
    here = Path(__file__).resolve().parents[1]
    root = options.checkout.resolve()
    sides = {
        "before": Checkout(root, root / ".venv" / "bin" / "python", model, options.threads),
        "now": Checkout(here, Path(sys.executable), model, options.threads),
    }
    for _ in range(options.rounds):
        for side in sides.values():
            side.measure(options.context)
    print(f"{f'decode at {options.context}, ms per token':34}{'median':>10}{'least':>10}")
    for name, side in sides.items():
        print(f"{name:34}{1e3 * side.measured.median:10.2f}{1e3 * min(side.measured.seconds):10.2f}")
        side.stop()
    before, now = (side.measured for side in sides.values())
    print(f"speed, now to before: {before.median / now.median:.3f} by medians, "
          f"{min(before.seconds) / min(now.seconds):.3f} by the best")  # fmt: skip


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    questions = parser.add_subparsers(dest="question", required=True)
    defaults = {"decode": ("1b", 16384, 5), "prefill": ("135m", 16384, 1), "before": ("1b", 4096, 5)}
    for name, (shape, context, rounds) in defaults.items():
        question = questions.add_parser(name)
        if name == "before":
            question.add_argument("checkout", type=Path)
        question.add_argument("--shape", default=shape)
        question.add_argument("--context", type=int, default=context)
        question.add_argument("--rounds", type=int, default=rounds)
        question.add_argument("--directory", type=Path, default=Path())
        question.add_argument("--pause", type=float, default=0.0, help="seconds between the sides of prefill")
    return parser.parse_args()


def main() -> None:
    options = parse()
    kernels.set_num_threads(options.threads)
    print(f"python -m benchmarks.two_tiers {' '.join(sys.argv[1:])}")
    print(f"{processor()}, {os.cpu_count()} CPUs, {options.threads} threads, Linux {platform.release()}", flush=True)
    if options.question == "before":
        compare_before(options)
        return
    compare = {"decode": compare_decode, "prefill": compare_prefill}[options.question]
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        compare(options, Path(directory))


if __name__ == "__main__":
    main()
