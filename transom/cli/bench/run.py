"""`transom bench`: goes through all points, and keeps what it found where an interruption leaves it."""

from __future__ import annotations

import asyncio
import os
import platform
import shlex
import signal
import sys
import time
from datetime import datetime
from importlib.metadata import version

import psutil
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from transom import kernels
from transom.cli.bench.measure import Sample, measure, random_prompt
from transom.cli.bench.output import check_outputs, show_interrupted, write_outputs
from transom.cli.bench.plan import DEFAULT_SECONDS, expected_seconds
from transom.cli.bench.report import Machine, Point, Rate, Report, Tiers
from transom.cli.bench.settings import BenchSettings
from transom.cli.bench.side import check_side, loaded
from transom.cli.bench.subject import Subject
from transom.cli.options import ModelOptions
from transom.errors import BudgetExceededError, ConfigError
from transom.registry import ServedModel
from transom.request import CacheOptions

_BANDWIDTH_BYTES = 2**29
_BANDWIDTH_ROUNDS = 3
_WARM_UP_TOKENS = 64


def run_benchmark(options: ModelOptions, settings: BenchSettings) -> None:
    """Measures, shows, writes. Blocks, for minutes perhaps.

    Raises ConfigError for what makes no sense before anything is loaded, and `KeyboardInterrupt` for Ctrl-C, when what
    was measured by then is shown and no file is written. SIGTERM is the same.
    """
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    check_outputs(settings)
    check_side(settings)
    subject = Subject.prepare(options, settings)
    report = _empty_report(subject, settings)
    try:
        with _progress() as bar, asyncio.Runner() as runner:
            _Benchmark(subject, settings, report, runner, bar).run()
    except KeyboardInterrupt:
        show_interrupted(report, settings)
        raise
    write_outputs(report, settings)


class _Benchmark:
    """All sides, strategies and depths, one after the other."""

    def __init__(
        self, subject: Subject, settings: BenchSettings, report: Report, runner: asyncio.Runner, bar: Progress
    ) -> None:
        self._subject, self._settings, self._report = subject, settings, report
        self._runner, self._bar = runner, bar
        self._depths = subject.depths
        self._num_series = len(subject.sides) * len(subject.strategies)
        self._num_requests = 0
        self._task = bar.add_task(subject.model.id, total=self._num_series * len(self._depths) * settings.num_rounds)

    def run(self) -> None:
        for tiers in self._subject.sides:
            self._bar.update(self._task, description=f"loading {self._subject.model.id}")
            with loaded(self._subject, tiers, self._settings, self._runner) as served:
                self._sample(served, 0, 0, self._subject.strategies[0], "warm-up")
                for cache in self._subject.strategies:
                    self._run_series(served, tiers, cache)

    def _run_series(self, served: ServedModel, tiers: Tiers, cache: CacheOptions) -> None:
        """The first series decides how many of the default depths there is time for."""
        started = time.monotonic()
        is_first = not self._report.points
        last: Point | None = None
        for depth in self._depths:
            if is_first and last is not None and self._is_too_long(last, depth, time.monotonic() - started):
                self._leave_out(depth)
                return
            last = self._point(served, tiers, depth, cache)
            self._report.points.append(last)

    def _point(self, served: ServedModel, tiers: Tiers, depth: int, cache: CacheOptions) -> Point:
        samples: list[Sample] = []
        for number in range(self._settings.num_rounds):
            self._bar.update(self._task, description=f"{tiers.value} {cache.strategy.value} at {depth}")
            samples.append(self._sample(served, depth, number, cache, cache.strategy.value))
            self._bar.advance(self._task)
        decode_depth = depth + self._subject.lengths.num_prefill_tokens
        bandwidth = self._report.machine.memory_bytes_per_second
        return Point(
            tiers=tiers,
            strategy=cache.strategy.value,
            depth=depth,
            prefill=Rate(tuple(sample.prefill_tokens_per_second for sample in samples)),
            decode=Rate(tuple(sample.decode_tokens_per_second for sample in samples)),
            decode_depth=decode_depth,
            num_forgotten_tokens=max(sample.num_forgotten_tokens for sample in samples),
            decode_limit=self._subject.decode_bytes.limit(decode_depth, cache, bandwidth),
        )

    def _sample(self, served: ServedModel, depth: int, number: int, cache: CacheOptions, salt: str) -> Sample:
        lengths = self._subject.lengths
        prompt = random_prompt(self._subject.model_config.vocab_size, depth, lengths.num_prefill_tokens, number)
        self._num_requests += 1
        request_id = f"bench-{self._num_requests}"
        measuring = measure(served.engine, request_id, prompt, depth, lengths.num_decode_tokens, cache, salt)
        try:
            return self._runner.run(measuring)
        except BudgetExceededError as error:
            raise ConfigError(str(error)) from None  # budgets are flags here

    def _is_too_long(self, last: Point, depth: int, seconds_so_far: float) -> bool:
        if self._settings.depths is not None:
            return False
        num_rounds = self._settings.num_rounds
        expected = expected_seconds(
            depth - last.depth, num_rounds, self._subject.lengths, last.prefill.median, last.decode.median
        )
        return seconds_so_far + expected > DEFAULT_SECONDS / self._num_series

    def _leave_out(self, first_depth: int) -> None:
        kept = tuple(depth for depth in self._depths if depth < first_depth)
        self._report.left_out_depths = self._depths[len(kept) :]
        self._depths = kept
        self._bar.update(self._task, total=self._num_series * len(kept) * self._settings.num_rounds)


def _empty_report(subject: Subject, settings: BenchSettings) -> Report:
    return Report(
        version=version("transom"),
        date=datetime.now().astimezone().isoformat(timespec="minutes"),
        command=shlex.join(["transom", *sys.argv[1:]]),
        machine=_machine(subject.engine_config.num_threads),
        model=subject.model,
        num_prefill_tokens=subject.lengths.num_prefill_tokens,
        num_decode_tokens=subject.lengths.num_decode_tokens,
        num_rounds=settings.num_rounds,
        ram_bytes=subject.ram_bytes,
        ssd_bytes=settings.ssd_bytes,
    )


def _machine(threads: int) -> Machine:
    kernels.set_num_threads(threads)
    return Machine(
        processor=_processor(),
        num_cores=len(os.sched_getaffinity(0)),
        num_threads=threads,
        instruction_set=kernels.active_isa(),
        ram_bytes=psutil.virtual_memory().total,
        memory_bytes_per_second=max(kernels.measure_read_bandwidth(_BANDWIDTH_BYTES) for _ in range(_BANDWIDTH_ROUNDS)),
        system=f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
    )


def _processor() -> str:
    """Its name, where the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _progress() -> Progress:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
