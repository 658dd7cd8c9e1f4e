"""A tiny model in an engine of this process, most of whose keys and values are on a disk that may fail."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.fakes import write_tiny_llama
from tests.harness import Harness
from transom.cache.file_system import FileSystem
from transom.engine.engine import Engine
from transom.engine.model_runner import ModelRunner
from transom.request import CacheOptions, FinishReason, Request, RequestOutput, SamplingParams
from transom.scheduler import Scheduler

RAM_BYTES = 14 * 6144
"""Slots for the staging ring and for three blocks of both layers."""
MAX_STEPS = 3000
SECONDS_PER_IDLE_STEP = 20.0
MAX_IDLE_STEPS = 8
"""A disk that stays full makes requests wait as long as their callers do; these callers go away then."""


@dataclass
class Clock:
    """Stands still, but for steps in which nothing could be done."""

    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds


@dataclass
class Answer:
    """What one request got."""

    token_ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    error: str | None = None

    def take(self, output: RequestOutput) -> None:
        self.token_ids += output.token_ids
        self.finish_reason, self.error = output.finish_reason, output.error


class FaultyEngine:
    """Runs requests to their end. Everything is released with `close`."""

    def __init__(
        self,
        directory: Path,
        *,
        ram_bytes: int = RAM_BYTES,
        max_ssd_bytes: int = 2**21,
        ssd_path: Path | None = None,
        file_system: FileSystem | None = None,
        cache: CacheOptions | None = None,
        outlives: bool = False,
    ) -> None:
        """`directory` holds the model, see `write_model`; without `ssd_path` there is no cold tier.

        `outlives`: prefixes are reused, and what is on SSD is there for the next engine.
        """
        self.clock = Clock()
        harness = Harness(
            directory,
            kv_dtype="f16",
            file_system=file_system,
            clock=self.clock,
            kv_cache_ram_bytes=ram_bytes,
            max_ssd_bytes=max_ssd_bytes if ssd_path else 0,
            ssd_path=ssd_path,
            cache=cache or CacheOptions(),
            outlives=outlives,
            enable_prefix_cache=outlives,
        )
        self.cache = harness.cache
        scheduler = Scheduler(
            harness.cache,
            eos_token_ids=(),
            max_num_seqs=4,
            max_num_batched_tokens=128,
            max_num_waiting=16,
            max_waiting_tokens=10**6,
        )
        runner = ModelRunner(harness.model, harness.cache, ())
        self.engine = Engine(
            scheduler=scheduler, runner=runner, cache=harness.cache, vocab_size=harness.model_config.vocab_size
        )

    def answers(self, requests: Sequence[Request], after_step: Callable[[], None] = lambda: None) -> list[Answer]:
        """What each request gets, in time or aborted. AssertionError when an invariant breaks on the way."""
        answers = {request.request_id: Answer() for request in requests}
        for request in requests:
            self.engine.add(request)
        num_idle_steps = 0
        for _ in range(MAX_STEPS):
            if not self.engine.has_work():
                return list(answers.values())
            outputs = self.engine.step() if num_idle_steps < MAX_IDLE_STEPS else self._abort(answers)
            for output in outputs:
                answers[output.request_id].take(output)
            self.cache.check_integrity()
            after_step()
            if not outputs:
                num_idle_steps += 1
                self.clock.seconds += SECONDS_PER_IDLE_STEP
        raise AssertionError(f"no end after {MAX_STEPS} steps: {answers}")

    def close(self) -> None:
        """Checks that nothing is left, and gives up the directory."""
        try:
            assert self.cache.stats().num_blocks_used == 0
            self._wait_for_writes()
            assert [tier.num_bytes_used for tier in self.cache.stats().tiers if tier.num_bytes_used] == []
        finally:
            self.cache.shut_down()

    def _abort(self, answers: Iterable[str]) -> list[RequestOutput]:
        aborted = [self.engine.abort(request_id) for request_id in answers]
        return [output for output in aborted if output is not None]

    def _wait_for_writes(self) -> None:
        """A write that began before its request ended still has its slots in RAM."""
        handle = self.cache.open(())
        deadline = time.monotonic() + 10
        while self.cache.stats().num_bytes_used and time.monotonic() < deadline:
            self.cache.prefill_chunk(handle, 1)
        self.cache.close(handle)


def write_model(directory: Path) -> None:
    write_tiny_llama(directory)


def make_requests(lengths: Sequence[int], max_tokens: int) -> list[Request]:
    """Random prompts of these lengths, answered greedily."""
    params = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
    rng = np.random.default_rng(3)
    prompts = [rng.integers(3, 259, length).tolist() for length in lengths]
    return [Request(f"request-{number}", tuple(prompt), params) for number, prompt in enumerate(prompts)]
