"""What the engine measures: how long steps take and of what kind they are, how long sequences wait for their first one,
and how far apart their tokens come. Knows no clock; it is told the times, in seconds of any clock that runs evenly."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from transom.engine.reports import StepStats
from transom.histogram import Histogram
from transom.request import RequestOutput
from transom.scheduler import SchedulerOutput

_STEP_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_TOKEN_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_SIZE_BOUNDS = tuple(float(2**power) for power in range(13))
_BYTE_BOUNDS = tuple(float(2**power) for power in range(16, 36, 2))


class StepTimes:
    """Of one engine. A few microseconds for each step."""

    def __init__(self) -> None:
        self._arrivals: dict[str, float] = {}
        """Of requests that were in no step yet."""
        self._last_tokens: dict[str, float] = {}
        self._prefill = Histogram(_STEP_BOUNDS)
        self._decode = Histogram(_STEP_BOUNDS)
        self._mixed = Histogram(_STEP_BOUNDS)
        self._sizes = Histogram(_SIZE_BOUNDS)
        self._intervals = Histogram(_TOKEN_BOUNDS)
        self._read_bytes = Histogram(_BYTE_BOUNDS)
        self._stalls = Histogram(_STEP_BOUNDS)

    def arrive(self, request_id: str, now: float) -> None:
        """A request was queued."""
        self._arrivals[request_id] = now

    def leave(self, request_id: str) -> None:
        """A request is over, however it ended."""
        self._arrivals.pop(request_id, None)
        self._last_tokens.pop(request_id, None)

    def note_step(self, scheduled: SchedulerOutput, seconds: float) -> None:
        """A step was computed."""
        num_decoding = sum(each.is_decode for each in scheduled.scheduled)
        if num_decoding == len(scheduled.scheduled):
            self._decode.observe(seconds)
        elif num_decoding == 0:
            self._prefill.observe(seconds)
        else:
            self._mixed.observe(seconds)
        self._sizes.observe(scheduled.num_tokens)

    def note_cold_reads(self, num_bytes: int, stall_seconds: float) -> None:
        """What the cold tier brought during a step, if anything, and how long the step did nothing but wait for it."""
        if num_bytes:
            self._read_bytes.observe(num_bytes)
            self._stalls.observe(stall_seconds)

    def note_outputs(self, outputs: list[RequestOutput], started: float, ended: float) -> list[RequestOutput]:
        """What a step brought that lasted from `started` to `ended`: the same outputs, the first one of each request
        with the time that it waited."""
        if self._arrivals:
            outputs = [self._with_queue_seconds(output, started) for output in outputs]
        self._note_intervals(outputs, ended)
        for output in outputs:
            if output.finish_reason is not None:
                self.leave(output.request_id)
        return outputs

    def stats(self) -> StepStats:
        """A snapshot."""
        return StepStats(
            prefill_seconds=self._prefill.snapshot(),
            decode_seconds=self._decode.snapshot(),
            mixed_seconds=self._mixed.snapshot(),
            num_tokens=self._sizes.snapshot(),
            inter_token_seconds=self._intervals.snapshot(),
            cold_read_bytes=self._read_bytes.snapshot(),
            stall_seconds=self._stalls.snapshot(),
        )

    def _with_queue_seconds(self, output: RequestOutput, started: float) -> RequestOutput:
        arrived = self._arrivals.pop(output.request_id, None)
        return output if arrived is None else replace(output, queue_seconds=max(0.0, started - arrived))

    def _note_intervals(self, outputs: list[RequestOutput], ended: float) -> None:
        """Most sequences got their last token in the same step: few different intervals are counted, many times."""
        intervals: Counter[tuple[float, int]] = Counter()
        for output in outputs:
            num_tokens = len(output.token_ids)
            if num_tokens:
                last = self._last_tokens.get(output.request_id)
                self._last_tokens[output.request_id] = ended
                if last is not None:
                    intervals[last, num_tokens] += num_tokens
        for (last, num_tokens), times in intervals.items():
            self._intervals.observe((ended - last) / num_tokens, times)
