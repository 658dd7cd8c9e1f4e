"""Counts what an answer really used. The response's `usage` and the metrics are the same numbers, from here."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from transom.errors import EngineError
from transom.llm import Completion, TextDelta, feed, join
from transom.metrics import MetricsCollector
from transom.request import FinishReason, Usage
from transom.server.gate import Gate
from transom.server.plan import Plan
from transom.server.request_record import RequestRecord


class Tally:
    """Tokens and times of one answer, fed with its deltas."""

    def __init__(self, plan: Plan, metrics: MetricsCollector, record: RequestRecord) -> None:
        self._plan = plan
        self._metrics = metrics
        self._record = record
        record.answer_id = plan.id
        self._started = time.perf_counter()
        self._first_token: dict[int, float] = {}
        self._ended: set[int] = set()
        self._num_tokens = [0] * len(plan.requests)
        self._num_cached = [0] * len(plan.prompts)
        self._num_written = [0] * len(plan.requests)
        self._num_evicted = [0] * len(plan.requests)
        self._num_reasoning = [0] * len(plan.requests)
        self._is_lossy = False
        self._begun: set[int] = set()
        self._counted: set[int] = set()
        """Prompts of which it is known how much was cached."""

    def see(self, sequence: int, delta: TextDelta) -> None:
        """Takes note of one delta."""
        self._begun.add(self._plan.prompt_of(sequence))
        self._num_tokens[sequence] += len(delta.token_ids)
        if delta.queue_seconds is not None:
            self._see_queue(delta.queue_seconds)
        if delta.token_ids:
            self._see_tokens(sequence)
        if delta.usage is not None:
            self._see_end(sequence, delta.usage)
        if delta.finish_reason is not None:
            self._count_end(sequence, delta.finish_reason)

    def see_reasoning(self, sequence: int, num_tokens: int) -> None:
        """So many tokens of a sequence were its reasoning so far; who reads answers knows."""
        self._num_reasoning[sequence] = num_tokens

    @property
    def num_reasoning_tokens(self) -> int:
        """Of all sequences; a part of the completion's tokens."""
        return sum(self._num_reasoning)

    def usage(self) -> Usage:
        """The whole answer so far: a prompt counts once however many candidates continue it, a forgotten token once for
        each sequence that forgot it."""
        return Usage(
            num_prompt_tokens=sum(len(self._plan.prompts[prompt]) for prompt in self._begun),
            num_completion_tokens=sum(self._num_tokens),
            num_cached_tokens=sum(self._num_cached),
            num_cache_write_tokens=sum(self._num_written),
            num_evicted_tokens=sum(self._num_evicted),
            is_lossy=self._is_lossy,
        )

    @property
    def seconds(self) -> tuple[float, float]:
        """From the plan to the first token of all, waiting included, and from there to now."""
        now = time.perf_counter()
        first = min(self._first_token.values(), default=now)
        return first - self._started, now - first

    @property
    def knows_cached(self) -> bool:
        """How much of every prompt was cached is known; the engine says so at the end of a sequence."""
        return len(self._counted) == len(self._plan.prompts)

    @property
    def elapsed_ms(self) -> int:
        """Since the answer was planned."""
        return int((time.perf_counter() - self._started) * 1000)

    def begin(self) -> None:
        """The answer goes to the queue."""
        self._record.queued = time.perf_counter()

    def settle(self) -> None:
        """At the end, however it came: what was used goes to the metrics. Sequences that did not come to their end were
        given up."""
        self._record.usage = self.usage()
        self._metrics.count_tokens(self._plan.model, self._record.usage)
        for sequence in self._first_token.keys() - self._ended:
            self._count_end(sequence, FinishReason.ABORT)

    def _see_queue(self, seconds: float) -> None:
        """The first sequence's wait is the answer's; further ones may wait because of it."""
        if self._record.queue_seconds is None:
            self._record.queue_seconds = seconds
            self._metrics.observe_queue(self._plan.model, seconds)

    def _see_tokens(self, sequence: int) -> None:
        now = time.perf_counter()
        self._record.last_token = now
        if self._record.first_token is None:
            self._record.first_token = now
            self._metrics.observe_first_token(self._plan.model, now - self._record.arrived)
        self._first_token.setdefault(sequence, now)

    def _count_end(self, sequence: int, reason: FinishReason) -> None:
        self._ended.add(sequence)
        self._record.finish_reasons.append(reason.value)
        self._metrics.count_end(self._plan.model, reason)

    def _see_end(self, sequence: int, usage: Usage) -> None:
        self._num_tokens[sequence] = usage.num_completion_tokens
        self._num_written[sequence] = usage.num_cache_write_tokens
        self._num_evicted[sequence] = usage.num_evicted_tokens
        self._is_lossy |= usage.is_lossy
        if sequence % self._plan.num_candidates == 0:
            self._num_cached[self._plan.prompt_of(sequence)] = usage.num_cached_tokens
            self._counted.add(self._plan.prompt_of(sequence))
        if usage.num_completion_tokens > 1 and sequence in self._first_token:
            seconds = time.perf_counter() - self._first_token[sequence]
            self._metrics.observe_token_time(self._plan.model, seconds / (usage.num_completion_tokens - 1))


async def run_plan(plan: Plan, gate: Gate, tally: Tally) -> AsyncGenerator[tuple[int, TextDelta], None]:
    """(sequence, delta) of all sequences as they come. Closing it aborts what still runs.

    Raises `QuotaExceededError` and `BudgetExceededError` before anything else.
    """
    reservation, allowance = gate.reserve(plan)
    tally.begin()
    try:
        with gate.open_requests.noted(plan, gate.caller):
            async with aclosing(feed(gate.generate, plan.requests, allowance)) as deltas:
                async for sequence, delta in deltas:
                    tally.see(sequence, delta)
                    _check_end(delta)
                    yield sequence, delta
    finally:
        tally.settle()
        usage = tally.usage()
        reservation.settle(usage.num_prompt_tokens + usage.num_completion_tokens)


async def run_to_end(plan: Plan, gate: Gate, tally: Tally) -> list[Completion]:
    """All sequences, in order, when the last one is complete. Raises as `run_plan`."""
    deltas: list[list[TextDelta]] = [[] for _ in plan.requests]
    async with aclosing(run_plan(plan, gate, tally)) as pairs:
        async for sequence, delta in pairs:
            deltas[sequence].append(delta)
    return [join(pieces) for pieces in deltas]


def _check_end(delta: TextDelta) -> None:
    if delta.finish_reason in (FinishReason.ABORT, FinishReason.ERROR):
        raise EngineError("The generation was stopped before its end.")
