"""What `transom plan` expects beside what is then measured: decode by depth, prompts, and decode with KV on SSD.

    python -m benchmarks.plan MODEL ... [--depths 16 4096] [--cold 4096] [--threads 2] [--directory .]

Both in one run: first the short measurements of the plan, then the engine itself, whose context is filled with random
keys and values. With `--cold N` a quarter of N tokens is in RAM and the others are in files under `--directory`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.side_process import Question
from benchmarks.transom_side import TransomSide
from benchmarks.two_tiers import HOT_SHARE, RING_SHARE, decode_seconds, fill
from tests.harness import Harness
from transom.cli.measured_machine import MeasuredMachine
from transom.config.engine_config import MIB
from transom.engine.speed_estimate import SpeedEstimate
from transom.models import Model, weight_sizes
from transom.registry.model_files import read_model_config
from transom.weights.sources import open_weights

PROMPT = 512
STEPS = 12
ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Row:
    """One figure, in tokens per second."""

    name: str
    expected: float
    measured: float

    def __str__(self) -> str:
        return f"| {self.name} | {self.expected:.1f} | {self.measured:.1f} | {self.expected / self.measured:.2f} |"


def compare(path: Path, options: argparse.Namespace, machine: MeasuredMachine, directory: Path) -> list[Row]:
    """All rows of one model, which is loaded once."""
    window = read_model_config(path).max_position_embeddings
    depths = [depth for depth in options.depths if depth + 2 * PROMPT <= window]
    side = TransomSide(path, options.threads, max(depths) + 4 * PROMPT, "f16")
    rows = in_ram(path, side, depths, machine)
    return rows + [on_ssd(path, side.model, context, machine, directory) for context in options.cold]


def in_ram(path: Path, side: TransomSide, depths: list[int], machine: MeasuredMachine) -> list[Row]:
    """Decode and prompts at every depth, all in RAM."""
    estimate = estimate_of(path, Harness(path, kv_dtype="f16", model=side.model, kv_cache_ram_mb=256), machine)
    rows = []
    for depth in depths:
        expected = 1 / estimate.decode_seconds(depth)
        seconds = statistics.median(side.decode(Question("decode", depth, STEPS, 1)) for _ in range(ROUNDS))
        rows.append(Row(f"decode at {depth}", expected, 1 / seconds))
        behind = depth // PROMPT * PROMPT
        expected = PROMPT / estimate.prefill_seconds(behind, PROMPT)
        seconds = prompt_seconds(side, behind)
        rows.append(Row(f"prompt of {PROMPT} at {behind}", expected, PROMPT / seconds))
    return rows


def prompt_seconds(side: TransomSide, behind: int) -> float:
    """Once, or in the middle of several where once says little."""
    question = Question("prefill", behind, PROMPT, 1)
    first = side.prefill(question)
    return first if first > 1 else statistics.median([first, *(side.prefill(question) for _ in range(2 * ROUNDS))])


def on_ssd(path: Path, model: Model, context: int, machine: MeasuredMachine, directory: Path) -> Row:
    """Decode with a quarter of the context in RAM."""
    ram, threads = Harness(path, kv_dtype="f16", model=model), set(Path("/proc/self/task").iterdir())
    num_bytes = ram.cache.budget.peak_bytes(context + PROMPT)
    tiered = Harness(
        path,
        kv_dtype="f16",
        model=model,
        kv_cache_ram_bytes=num_bytes // HOT_SHARE * RING_SHARE // (RING_SHARE - 1),
        max_ssd_bytes=2 * num_bytes + 64 * MIB,
        ssd_path=directory / "cold",
    )
    _put_first(set(Path("/proc/self/task").iterdir()) - threads)
    try:
        expected = 1 / estimate_of(path, tiered, machine).decode_seconds(context)
        stream = fill(tiered, context)
        seconds = statistics.median(decode_seconds(tiered, stream) for _ in range(ROUNDS))
        return Row(f"decode at {context}, a quarter in RAM", expected, 1 / seconds)
    finally:
        tiered.cache.shut_down()


def _put_first(threads: set[Path]) -> None:
    """At real-time priority I/O threads must not wait for time slices of the arithmetic; elsewhere sleepers go first
    anyway."""
    if os.sched_getscheduler(0) == os.SCHED_FIFO:
        for thread in threads:
            os.sched_setscheduler(
                int(thread.name), os.SCHED_FIFO, os.sched_param(os.sched_getparam(0).sched_priority + 1)
            )


def estimate_of(path: Path, harness: Harness, machine: MeasuredMachine) -> SpeedEstimate:
    """Of the model with the harness's budgets."""
    source = open_weights(path)
    matrices = weight_sizes(harness.model_config, source).matrices
    return SpeedEstimate(harness.model_config, harness.engine_config, source, matrices, harness.cache.budget, machine)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--depths", type=int, nargs="+", default=[16, 4096])
    parser.add_argument("--cold", type=int, nargs="*", default=[])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--directory", type=Path, default=Path())
    return parser.parse_args()


def main() -> None:
    options = parse()
    for path in options.models:
        print(f"| {path.name}, tokens/s | expected | measured | ratio |\n|---|---|---|---|", flush=True)
        with tempfile.TemporaryDirectory(dir=options.directory) as directory:
            machine = MeasuredMachine(options.threads, Path(directory))
            rows = compare(path, options, machine, Path(directory))
        for row in rows:
            print(row, flush=True)


if __name__ == "__main__":
    main()
