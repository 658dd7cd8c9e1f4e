"""What the engine measures, told times by hand."""

from __future__ import annotations

from transom.engine.step_times import StepTimes
from transom.histogram import HistogramCounts
from transom.request import FinishReason, RequestOutput


def bucket(counted: HistogramCounts, value: float) -> int:
    """The count of the bucket that `value` belongs to."""
    index = next((i for i, bound in enumerate(counted.bounds) if value <= bound), len(counted.bounds))
    return counted.counts[index]


def test_only_the_first_output_of_a_request_tells_how_long_it_waited() -> None:
    times = StepTimes()
    times.arrive("a", 10.0)
    [first] = times.note_outputs([RequestOutput("a")], 12.5, 13.0)
    assert first.queue_seconds == 2.5
    [second] = times.note_outputs([RequestOutput("a", (1,))], 13.0, 14.0)
    assert second.queue_seconds is None


def test_intervals_are_counted_by_token_from_the_second_output_on() -> None:
    times = StepTimes()
    times.note_outputs([RequestOutput("a", (1,)), RequestOutput("b", (1,))], 0.0, 1.0)
    assert times.stats().inter_token_seconds.num_values == 0
    times.note_outputs([RequestOutput("a", (2,)), RequestOutput("b", (2, 3, 4))], 1.0, 1.27)
    counted = times.stats().inter_token_seconds
    assert counted.num_values == 4
    assert (bucket(counted, 0.27), bucket(counted, 0.09)) == (1, 3)
    assert round(counted.total, 9) == 0.54


def test_an_output_without_tokens_is_no_token_and_a_preempted_sequence_waited_all_along() -> None:
    times = StepTimes()
    times.note_outputs([RequestOutput("a", (1,))], 0.0, 1.0)
    times.note_outputs([RequestOutput("a", num_computed_tokens=5)], 1.0, 2.0)
    times.note_outputs([RequestOutput("a", (2,))], 2.0, 4.0)
    counted = times.stats().inter_token_seconds
    assert (counted.num_values, counted.total) == (1, 3.0)


def test_who_ended_is_forgotten_and_its_namesake_begins_afresh() -> None:
    times = StepTimes()
    times.note_outputs([RequestOutput("a", (1,), finish_reason=FinishReason.LENGTH)], 0.0, 1.0)
    times.note_outputs([RequestOutput("a", (1,))], 1.0, 2.0)
    times.leave("a")
    times.note_outputs([RequestOutput("a", (1,))], 2.0, 3.0)
    assert times.stats().inter_token_seconds.num_values == 0


def test_cold_reads_are_counted_for_steps_that_read() -> None:
    times = StepTimes()
    times.note_cold_reads(0, 0.0)
    times.note_cold_reads(1 << 20, 0.2)
    stats = times.stats()
    assert (stats.cold_read_bytes.num_values, stats.cold_read_bytes.total) == (1, 1 << 20)
    assert (stats.stall_seconds.num_values, bucket(stats.stall_seconds, 0.2)) == (1, 1)
