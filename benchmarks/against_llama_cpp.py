"""How fast are prompts and decoding of GGUF files beside llama.cpp? Same file, same threads, one run, A B A B.

    python -m benchmarks.against_llama_cpp [--models 1b:Q4_K_M 1b:F16 | FILE.gguf ...] [--rows decode prefill ...]
        [--threads 2] [--rounds 3] [--isa native|avx2] [--environment DIR] [--only llama_cpp] [--json FILE]

Installs the peer by itself, compiled for this machine (`benchmarks.llama_cpp_environment`). Each engine is a process of
its own that waits for questions, so that only one computes at a time and peak memory can be read from outside. Both
choose tokens greedily; KV is f16 on both sides. Before the rounds llama.cpp tries the settings of the row, in `ROWS`:
flash attention or not, smaller micro-batches, KV of all sequences together or not. With the best one it enters the
rounds, whose medians count; what the others gave is shown.

*Limit*: for decoding, the bytes that a step must read over the memory's bandwidth, measured in the same rounds; for
prompts, their operations over what the cores can do in registers (integer dot products for quantised files, f32 FMA for
others). The row `memory` starts both anew with room for 2048 tokens, computes a prompt of 512 tokens, and decodes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.gguf_limits import GgufLimits
from benchmarks.kernels_matmul import processor
from benchmarks.llama_cpp_environment import default_environment, peer_python
from benchmarks.peak_operations import PeakOperations, measure_peak_operations
from benchmarks.side_process import Question, Setting, SideProcess
from benchmarks.synthetic_gguf import synthetic_gguf
from transom import kernels

TRANSOM, PEER = "transom", "llama_cpp"
BANDWIDTH_BYTES = 2**29
MEMORY_CONTEXT = 2048
SPARE_TOKENS = 192

EITHER_ATTENTION = (Setting(flash_attention=False), Setting(flash_attention=True))
PROMPT_SETTINGS = (*EITHER_ATTENTION, *(Setting(flash_attention=True, micro_batch=size) for size in (256, 128)))
BATCH_SETTINGS = (*EITHER_ATTENTION, *(replace(setting, is_unified=False) for setting in EITHER_ATTENTION))


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: what both are asked, and what llama.cpp may choose from."""

    question: Question
    settings: tuple[Setting, ...]

    @property
    def name(self) -> str:
        asked = self.question
        if asked.kind == "prefill":
            return f"prefill of {asked.count}" + (f" behind {asked.context}" if asked.context else "")
        return f"decode at {asked.context}" + (f", {asked.num_sequences} together" if asked.num_sequences > 1 else "")

    @property
    def kv_tokens(self) -> int:
        """What has to be in the cache, with room for warming up and for started blocks."""
        return self.question.num_sequences * (self.question.context + self.question.count + SPARE_TOKENS)

    @property
    def tokens(self) -> int:
        """Computed in the time that is measured."""
        return self.question.count if self.question.kind == "prefill" else self.question.num_sequences


ROWS = {
    "prefill": Row(Question("prefill", 0, 512), PROMPT_SETTINGS),
    "decode": Row(Question("decode", 16, 64), EITHER_ATTENTION),
    "decode-4k": Row(Question("decode", 4096, 16), EITHER_ATTENTION),
    "decode-16k": Row(Question("decode", 16384, 12), EITHER_ATTENTION),
    "prefill-16k": Row(Question("prefill", 16384, 512), EITHER_ATTENTION),
    "decode-together": Row(Question("decode", 512, 12, num_sequences=16), BATCH_SETTINGS),
}
MEMORY = "memory"


@dataclass(frozen=True, slots=True)
class Result:
    """One row as it was measured: tokens per second, or seconds and MiB for the row `memory`."""

    file: str
    row: str
    transom: float | None
    llama_cpp: float
    limit: float | None = None
    setting: str = ""
    others: str = ""

    def print(self) -> None:
        limit = f"{self.limit:9.1f}" if self.limit else f"{'':9}"
        ours = f"{'–':>9}{'':7}"
        if self.transom is not None:
            ours = f"{self.transom:9.1f}{self.transom / self.llama_cpp:7.2f}"
        shares = "".join(_share(value, self.limit) for value in (self.transom, self.llama_cpp))
        print(f"{self.row:30}{ours}{self.llama_cpp:11.1f}{limit}{shares}  {self.setting}{self.others}", flush=True)


def _share(value: float | None, limit: float | None) -> str:
    return f"{value / limit:9.0%}" if value and limit else f"{'':9}"


HEADER = (
    f"{'':30}{'transom':>9}{'ratio':>7}{'llama.cpp':>11}{'limit':>9}{'of limit':>9}{'peer':>9}  best setting (others)"
)


class Comparison:
    """Both engines with one file loaded, and the machine's limits."""

    def __init__(self, path: Path, options: argparse.Namespace, peak: PeakOperations) -> None:
        self._path = path
        self._options = options
        self._limits = GgufLimits.of(path)
        self._peak = peak.floats if path.stem.endswith(("F16", "F32", "BF16")) else peak.bytes
        self._bandwidths: list[float] = []

    def run(self, names: Iterable[str]) -> list[Result]:
        """Measures and prints the rows."""
        print(f"\n{self._path.name}: {self._limits.weight_bytes / 2**20:.0f} MiB read per token\n{HEADER}", flush=True)
        rows = [ROWS[name] for name in names if name in ROWS]
        results = self._compare(rows) if rows else []
        if MEMORY in names:
            results += self._measure_memory()
        return results

    def _compare(self, rows: list[Row]) -> list[Result]:
        sides = self._start(max(row.kv_tokens for row in rows))
        results = [self._measure(row, sides) for row in rows]
        for side in sides.values():
            side.stop()
        print(f"memory gives {statistics.median(self._bandwidths) / 1e9:.1f} GB/s, cores {self._peak / 1e9:.0f} Gop/s")
        return results

    def _start(self, kv_tokens: int) -> dict[str, SideProcess]:
        """The peer first; Transom unless it is left out."""
        options = self._options
        common = [str(self._path), "--threads", str(options.threads)]
        sides = {PEER: SideProcess(options.peer_python, "llama_cpp_side", *common)}
        if options.only != PEER:
            ours = [*common, "--isa", options.isa, "--kv-tokens", str(kv_tokens)]
            sides[TRANSOM] = SideProcess(Path(sys.executable), "transom_side", *ours)
        return sides

    def _measure(self, row: Row, sides: dict[str, SideProcess]) -> Result:
        trials = self._try_settings(row, sides[PEER])
        best = min(trials, key=lambda setting: trials[setting])
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        bandwidths = []
        for _ in range(self._options.rounds):
            bandwidths.append(kernels.measure_read_bandwidth(BANDWIDTH_BYTES))
            for name, side in sides.items():
                seconds[name].append(side.ask(replace(row.question, setting=best)))
        self._bandwidths += bandwidths
        speeds = {name: row.tokens / statistics.median(each) for name, each in seconds.items()}
        others = [f"{setting} {row.tokens / trials[setting]:.1f}" for setting in trials if setting != best]
        result = Result(
            file=self._path.name,
            row=row.name + ", tok/s",
            transom=speeds.get(TRANSOM),
            llama_cpp=speeds[PEER],
            limit=row.tokens / self._least_seconds(row.question, statistics.median(bandwidths)),
            setting=str(best),
            others=f" ({'; '.join(others)})",
        )
        result.print()
        return result

    def _try_settings(self, row: Row, peer: SideProcess) -> dict[Setting, float]:
        return {setting: peer.ask(replace(row.question, setting=setting)) for setting in row.settings}

    def _least_seconds(self, question: Question, bandwidth: float) -> float:
        if question.kind == "prefill":
            return self._limits.prefill_operations(question.context, question.count) / self._peak
        return self._limits.decode_bytes(question.context, question.num_sequences) / bandwidth

    def _measure_memory(self) -> list[Result]:
        """Load time, the file being in the page cache, and peak memory."""
        read_through(self._path)
        loads: dict[str, list[float]] = {}
        peaks: dict[str, list[float]] = {}
        for _ in range(self._options.rounds):
            for name, side in self._start(MEMORY_CONTEXT).items():
                side.ask(ROWS["prefill"].question)
                side.ask(ROWS["decode"].question)
                loads.setdefault(name, []).append(side.load_seconds)
                peaks.setdefault(name, []).append(side.peak_rss_mib())
                side.stop()
        measured = {"load, seconds": loads, "peak RSS, MiB": peaks}
        results = []
        for row, values in measured.items():
            medians = {name: statistics.median(each) for name, each in values.items()}
            results.append(Result(self._path.name, row, medians.get(TRANSOM), medians[PEER]))
            results[-1].print()
        return results


def read_through(path: Path) -> None:
    """Leaves the file in the page cache."""
    with path.open("rb") as file:
        while file.read(2**24):
            pass


def model_file(name: str) -> Path:
    """`SHAPE:TYPE` is a synthetic model; anything else a file."""
    shape, _, file_type = name.partition(":")
    return synthetic_gguf(shape, file_type) if file_type else Path(name).resolve()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["1b:Q4_K_M", "1b:Q8_0", "1b:F16", "7b:Q4_K_M"])
    parser.add_argument("--rows", nargs="+", choices=[*ROWS, MEMORY], default=[*ROWS, MEMORY])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--isa", choices=("native", "avx2"), default="native")
    parser.add_argument("--environment", type=Path, help="where the peer is, or is to be installed")
    parser.add_argument("--only", choices=(PEER,), help="leaves Transom out")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    options = parse()
    options.peer_python = peer_python(options.environment or default_environment(options.isa), options.isa)
    kernels.set_num_threads(options.threads)
    peak = measure_peak_operations(options.threads, options.isa)
    print(f"python -m benchmarks.against_llama_cpp {' '.join(sys.argv[1:])}")
    print(f"{processor()}, {os.cpu_count()} CPUs, {options.threads} threads, Linux {platform.release()}")
    results = []
    for model in options.models:
        results += Comparison(model_file(model), options, peak).run(options.rows)
    if options.json:
        options.json.write_text(json.dumps([asdict(result) for result in results], indent=1))


if __name__ == "__main__":
    main()
