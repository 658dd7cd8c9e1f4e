"""How soon does the first token come when the prompt was there before: in RAM, on SSD, after a restart?

    python -m benchmarks.prefix_reuse times MODEL [--tokens 8192] [--rounds 5] [--directory .]
    python -m benchmarks.prefix_reuse slow-disk MODEL [--tokens 2048] [--rate 2] [--directory .]

`times`: one engine reads a prompt of random tokens, which nobody has (cold). Then requests with the same beginning and
other last tokens find it: in RAM; after a restart of the engine, every round anew; and on SSD, by an engine whose RAM
holds a quarter of it. `slow-disk`: two such prompts, left on a disk that gives so many MiB per second, are wanted after
a restart by an engine that has computed another one: the first is answered with what is on the disk, and by then the
engine knows how slow that is, so that the second is computed.

MODEL is a directory or a GGUF file. The cold tier is under `--directory`, read with O_DIRECT where that is possible.
All sides take turns in one process, in this order; medians count. The time of a request is that from `Engine.add` to
its first token; what a restart takes before that is said beside it.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from benchmarks.kernels_matmul import processor
from transom import kernels
from transom.cache.file_system import NUM_IO_THREADS, FileSystem, RealFileSystem
from transom.config.engine_config import EngineConfig, kv_bytes_for_tokens, resolve
from transom.config.registry_config import ModelEntry
from transom.engine.engine import Engine
from transom.engine.model_identity import ModelIdentity
from transom.kernels import IOQueue, IOResult
from transom.models import Model, build
from transom.registry.model_files import read_model_config
from transom.request import Request, RequestOutput, SamplingParams
from transom.weights.loader import WeightLoader
from transom.weights.sources import open_weights

MIB = 2**20
NUM_OWN_TOKENS = 16
"""Of each request, behind what all have in common."""
NUM_OTHER_TOKENS = 512
SPARE_TOKENS = 2048
QUARTER = 4
SAMPLING = SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True)


@dataclass
class Side:
    """Seconds to the first token, request by request."""

    name: str
    seconds: list[float] = field(default_factory=list)
    num_cached_tokens: int = 0

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


class Server:
    """One model, whose engines come and go."""

    def __init__(self, path: Path, num_tokens: int, directory: Path) -> None:
        entry = ModelEntry.model_validate({"id": "measured", "path": str(path)})
        self.model_config, config = resolve(entry, read_model_config(path), num_threads=kernels.num_threads())
        weights = open_weights(path)
        self.model: Model = build(self.model_config, WeightLoader(weights))
        self.files = weights.files
        self.kv_bytes = kv_bytes_for_tokens(self.model_config, config.kv_dtype, num_tokens)
        self._config = config
        self._spare_bytes = kv_bytes_for_tokens(self.model_config, config.kv_dtype, SPARE_TOKENS)
        self._directory = directory
        self._numbers = itertools.count(1000)
        self._num_tokens = num_tokens

    @contextmanager
    def engine(self, ram_share: float = 1.0, file_system: FileSystem | None = None) -> Iterator[Engine]:
        """A run over the directory, with this share of the prompt's KV in RAM, and some more for other tokens."""
        config = self._config_of(int(self.kv_bytes * ram_share))
        identity = ModelIdentity(self.model_config, config, self.files)
        engine = Engine.of(self.model, self.model_config, config, file_system=file_system, identify=identity)
        try:
            yield engine
        finally:
            engine.close()

    def ask(self, engine: Engine, side: Side, prompt: int = 0) -> None:
        """A common prompt, and a few tokens of its own."""
        common = self._tokens(prompt, self._num_tokens)
        self._ask(engine, side, [*common, *self._tokens(next(self._numbers), NUM_OWN_TOKENS)])

    def ask_something_else(self, engine: Engine) -> None:
        """From it the engine knows how fast it computes."""
        self._ask(engine, Side("something else"), self._tokens(next(self._numbers), NUM_OTHER_TOKENS))

    def _tokens(self, seed: int, count: int) -> list[int]:
        tokens: list[int] = np.random.default_rng(seed).integers(3, self.model_config.vocab_size, count).tolist()
        return tokens

    def _ask(self, engine: Engine, side: Side, token_ids: list[int]) -> None:
        started = time.perf_counter()
        engine.add(Request(f"request-{next(self._numbers)}", tuple(token_ids), SAMPLING))
        outputs: list[RequestOutput] = []
        while not any(output.token_ids for output in outputs):
            outputs += engine.step()
        side.seconds.append(time.perf_counter() - started)
        while engine.has_work():
            outputs += engine.step()
        assert outputs[-1].usage is not None and outputs[-1].error is None, outputs[-1].error
        side.num_cached_tokens = outputs[-1].usage.num_cached_tokens

    def _config_of(self, ram_bytes: int) -> EngineConfig:
        plain = self._config.to_plain() | {
            "kv_cache_ram_bytes": (ram_bytes + self._spare_bytes) * 8 // 7,  # a ring beside it
            "max_ssd_bytes": 4 * self.kv_bytes + 64 * MIB,
            "ssd_path": str(self._directory / "cold"),
        }
        return EngineConfig.from_plain(plain)


class SlowDisk(RealFileSystem):
    """Reads take as long as on a disk that gives so many bytes per second."""

    def __init__(self, bytes_per_second: float) -> None:
        super().__init__()
        self._bytes_per_second = bytes_per_second

    def io_queue(self) -> IOQueue:
        return cast(IOQueue, _SlowQueue(IOQueue(NUM_IO_THREADS), self._bytes_per_second))


@dataclass(frozen=True, slots=True)
class _SlowResult:
    """What came of a read, and how long it took."""

    errors: NDArray[np.int32]
    ok: bool
    num_bytes: int
    seconds: float


class _SlowQueue:
    """Tickets of reads are over one after the other, no sooner than the disk could have given their bytes."""

    def __init__(self, queue: IOQueue, bytes_per_second: float) -> None:
        self._queue = queue
        self._bytes_per_second = bytes_per_second
        self._free_at = 0.0
        self._reads: dict[int, tuple[float, float]] = {}  # by ticket: when it begins, when it is over

    def submit_reads(self, fd: int, offsets: Any, arena: Any, slots: Any, slot_bytes: int, checksums: Any) -> int:
        ticket = self._queue.submit_reads(fd, offsets, arena, slots, slot_bytes, checksums)
        begins = max(self._free_at, time.monotonic())
        self._free_at = begins + len(slots) * slot_bytes / self._bytes_per_second
        self._reads[ticket] = begins, self._free_at
        return ticket

    def submit_writes(self, *arguments: Any) -> int:
        return self._queue.submit_writes(*arguments)

    def poll(self, ticket: int) -> IOResult | None:
        if self._missing_seconds(ticket) > 0:
            return None
        result = self._queue.poll(ticket)
        return result and self._slowed(ticket, result)

    def wait(self, ticket: int, timeout_seconds: float | None = None) -> IOResult:
        missing = self._missing_seconds(ticket)
        if timeout_seconds is not None and missing > timeout_seconds:
            time.sleep(timeout_seconds)
            raise TimeoutError
        time.sleep(missing)
        return self._slowed(ticket, self._queue.wait(ticket, timeout_seconds))

    def _missing_seconds(self, ticket: int) -> float:
        _, end = self._reads.get(ticket, (0.0, 0.0))
        return max(0.0, end - time.monotonic())

    def _slowed(self, ticket: int, result: IOResult) -> IOResult:
        if ticket not in self._reads:
            return result
        begin, end = self._reads.pop(ticket)
        slow = _SlowResult(result.errors, result.ok, result.num_bytes, max(end - begin, result.seconds))
        return cast(IOResult, slow)

    def close(self) -> None:
        self._queue.close()


def measure_times(server: Server, num_rounds: int) -> list[Side]:
    """Cold, in RAM, after a restart, on SSD."""
    cold, in_ram, restarted, on_ssd = (Side(name) for name in ("cold", "in RAM", "after a restart", "on SSD"))
    with server.engine() as engine:
        server.ask(engine, cold)
        for _ in range(num_rounds):
            server.ask(engine, in_ram)
    starts: list[float] = []
    for _ in range(num_rounds):
        started = time.perf_counter()
        with server.engine() as engine:
            starts.append(time.perf_counter() - started)
            server.ask(engine, restarted)
    with server.engine(ram_share=1 / QUARTER) as engine:
        for _ in range(num_rounds):
            server.ask(engine, on_ssd)
    print(f"a restart without the weights: {statistics.median(starts):.2f} s")
    return [cold, in_ram, restarted, on_ssd]


def measure_slow_disk(server: Server, mib_per_second: float) -> list[Side]:
    """Left on a fast disk, wanted from a slow one."""
    cold, first, second = (Side(name) for name in ("cold", "slow disk, first", "slow disk, second"))
    with server.engine() as engine:
        server.ask(engine, cold, prompt=1)
        server.ask(engine, cold, prompt=2)
    with server.engine(file_system=SlowDisk(mib_per_second * MIB)) as engine:
        server.ask_something_else(engine)
        server.ask(engine, first, prompt=1)
        server.ask(engine, second, prompt=2)
    return [cold, first, second]


def show(sides: list[Side], num_tokens: int) -> None:
    [cold, *_] = sides
    print(f"{'':20}{'first token':>12}{'of cold':>9}{'cached':>16}")
    for side in sides:
        share = side.median / cold.median
        cached = f"{side.num_cached_tokens} of {num_tokens + NUM_OWN_TOKENS}"
        print(f"{side.name:20}{side.median:10.3f} s{share:9.1%}{cached:>16}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("times", "slow-disk"))
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rate", type=float, default=2.0, help="MiB per second of the slow disk")
    parser.add_argument("--directory", type=Path, default=Path())
    arguments = parser.parse_args()
    num_tokens = arguments.tokens or {"times": 8192, "slow-disk": 2048}[arguments.what]
    directory = Path(tempfile.mkdtemp(prefix="prefix-reuse-", dir=arguments.directory))
    try:
        server = Server(arguments.model, num_tokens, directory)
        print(f"{processor()}, {platform.system()} {platform.release()}, {kernels.num_threads()} threads")
        print(f"{arguments.model.name}: {num_tokens} tokens, {server.kv_bytes / MIB:.0f} MiB of KV")
        measure: Callable[[], list[Side]] = {
            "times": lambda: measure_times(server, arguments.rounds),
            "slow-disk": lambda: measure_slow_disk(server, arguments.rate),
        }[arguments.what]
        show(measure(), num_tokens)
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
