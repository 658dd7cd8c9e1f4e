"""`Engine`: requests of token ids in, tokens out, one step at a time. One thread, no I/O, no clock but for statistics.

Wires scheduler and model runner together; both are given. What drives it is `worker`, or a test.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from transom.cache import CacheManager, Identify, LostBlockError
from transom.cache.file_system import FileSystem
from transom.config.engine_config import EngineConfig
from transom.config.model_config import ModelConfig
from transom.engine.grammars import Grammars
from transom.engine.model_runner import ModelRunner, StepResult
from transom.engine.reports import EngineStats, EngineView
from transom.engine.step_times import StepTimes
from transom.errors import RequestError
from transom.models import Model
from transom.request import FinishReason, Request, RequestOutput
from transom.scheduler import Scheduler, SchedulerOutput

_REST_SECONDS = 0.01


class Engine:
    """All sequences of one model. Not thread-safe; `step` blocks for one forward pass, everything else is quick."""

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        runner: ModelRunner,
        cache: CacheManager,
        vocab_size: int,
        grammars: Grammars | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._cache = cache
        self._vocab_size = vocab_size
        self._grammars = grammars
        self._clock = clock
        self._sleep = sleep
        self._num_steps = 0
        self._step_seconds = 0.0
        self._num_failed = 0
        self._times = StepTimes()

    @classmethod
    def of(
        cls,
        model: Model,
        model_config: ModelConfig,
        engine_config: EngineConfig,
        *,
        file_system: FileSystem | None = None,
        identify: Identify | None = None,
        grammars: Grammars | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> Engine:
        """An engine with a cache and a scheduler of its own; `identify` as `CacheManager` has it. Raises ConfigError.

        Without `grammars` requests that have one are refused. `clock` times steps, in seconds.
        """
        cache = CacheManager(model_config, engine_config, identify=identify, file_system=file_system)
        scheduler = Scheduler(
            cache,
            eos_token_ids=model_config.eos_token_ids,
            max_num_seqs=engine_config.max_num_seqs,
            max_num_batched_tokens=engine_config.max_num_batched_tokens,
            max_num_waiting=engine_config.max_num_waiting,
            max_waiting_tokens=engine_config.waiting_token_limit,
            max_draft_tokens=engine_config.max_draft_tokens,
            is_ready=lambda request: grammars is None or grammars.is_ready(request.sampling.grammar),
        )
        runner = ModelRunner(model, cache, model_config.eos_token_ids, grammars)
        return cls(
            scheduler=scheduler,
            runner=runner,
            cache=cache,
            vocab_size=model_config.vocab_size,
            grammars=grammars,
            clock=clock,
        )

    def add(self, request: Request) -> None:
        """Queues a request. Raises RequestError (also BudgetExceededError) or QueueFullError; nothing is kept then."""
        _check_token_ids(request, self._vocab_size)
        if request.sampling.grammar is not None and self._grammars is None:
            raise RequestError("This engine knows no grammars.", param="grammar")
        self._scheduler.add(request)
        self._times.arrive(request.request_id, self._clock())
        if self._grammars is not None:
            self._grammars.prepare(request.sampling.grammar)

    def abort(self, request_id: str) -> RequestOutput | None:
        """Ends a request, whose blocks are free when this returns; its last output, or None if there is none such."""
        output = self._scheduler.fail(request_id, "aborted")
        self._times.leave(request_id)
        return output and replace(output, finish_reason=FinishReason.ABORT, error=None)

    def max_sequence_tokens(self, limit: int) -> int:
        """The longest sequence, up to `limit` tokens, that the KV budgets can hold when nothing of it is forgotten."""
        return self._cache.budget.max_tokens(limit)

    def max_sequences(self, num_tokens: int, limit: int) -> int:
        """How many requests of `num_tokens`, up to `limit`, the KV budgets can hold at once."""
        return min(limit, self._cache.budget.max_sequences(num_tokens))

    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return self._scheduler.has_unfinished_sequences

    def step(self) -> list[RequestOutput]:
        """Computes the next tokens of whoever is due; their outputs. An empty list when there is nothing to do."""
        started = self._clock()
        scheduled = self._scheduler.schedule()
        if scheduled is None:
            return self._rest()
        num_read, stalled = self._cache.cold_reads()
        outputs = self._run(scheduled)
        ended = self._clock()
        self._count_step(scheduled, ended - started)
        num_read_now, stalled_now = self._cache.cold_reads()
        self._times.note_cold_reads(num_read_now - num_read, stalled_now - stalled)
        return self._times.note_outputs(self._take_failed() + outputs, started, ended)

    def close(self) -> None:
        """Gives up the files of the cold tier. Idempotent; the last call."""
        self._cache.shut_down()

    def stats(self) -> EngineStats:
        """A snapshot."""
        return EngineStats(
            scheduler=self._scheduler.stats(),
            cache=self._cache.stats(),
            num_steps=self._num_steps,
            step_seconds=self._step_seconds,
            num_failed=self._num_failed,
            steps=self._times.stats(),
        )

    def view(self) -> EngineView:
        """Statistics and the windows of all running sequences, as of now."""
        return EngineView(self.stats(), self._cache.windows())

    def check_integrity(self) -> None:
        """Raises AssertionError when the cache breaks an invariant."""
        self._cache.check_integrity()

    def _run(self, scheduled: SchedulerOutput | None) -> list[RequestOutput]:
        """One step. Sequences whose KV is lost leave it, to be computed again later, and the others start it again."""
        while scheduled is not None:
            try:
                result = self._runner.run(scheduled)
            except LostBlockError as error:
                scheduled = self._scheduler.give_up_lost(scheduled, error.handles)
            else:
                ended = self._end_failed(result)
                outputs = self._scheduler.update(scheduled, result.sampled, result.prompt_logprobs)
                return ended + [replace(each, vector=result.vectors.get(each.request_id)) for each in outputs]
        return []

    def _rest(self) -> list[RequestOutput]:
        """Nothing can be computed. If somebody waits for the disk nevertheless, a moment passes."""
        self._cache.tend()
        failed = self._take_failed()
        for output in failed:
            self._times.leave(output.request_id)
        if self.has_work() and not failed:
            self._sleep(_REST_SECONDS)
        return failed

    def _take_failed(self) -> list[RequestOutput]:
        failed = self._scheduler.take_failed()
        self._num_failed += len(failed)
        return failed

    def _end_failed(self, result: StepResult) -> list[RequestOutput]:
        ended = [self._scheduler.fail(request_id, message) for request_id, message in result.failed.items()]
        self._num_failed += len(ended)
        return [output for output in ended if output is not None]

    def _count_step(self, scheduled: SchedulerOutput, seconds: float) -> None:
        self._scheduler.note_seconds(scheduled, seconds)
        self._times.note_step(scheduled, seconds)
        self._num_steps += 1
        self._step_seconds += seconds


def _check_token_ids(request: Request, vocab_size: int) -> None:
    """An id outside the vocabulary would otherwise surface in the middle of somebody else's batch."""
    sampling = request.sampling
    named: tuple[tuple[str, Iterable[int]], ...] = (
        ("prompt", request.prompt_token_ids),
        ("logit_bias", sampling.logit_bias),
        ("allowed_token_ids", sampling.allowed_token_ids or ()),
        ("stop_token_ids", sampling.stop_token_ids),
    )
    for param, token_ids in named:
        if not 0 <= min(token_ids, default=0) <= max(token_ids, default=0) < vocab_size:
            wrong = next(token_id for token_id in token_ids if not 0 <= token_id < vocab_size)
            raise RequestError(
                f"{param} holds the token id {wrong}; the model's are 0 to {vocab_size - 1}.", param=param
            )
