"""Batches, turns, preemption, ends."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.cache.small_models import FULL, SLIDING, make_cache
from tests.scheduler.driver import (
    EOS,
    Driver,
    expected_tokens,
    make_driver,
    make_request,
    repeating_token,
)
from transom.errors import BudgetExceededError, QueueFullError, RequestError
from transom.request import FinishReason, Request, SampledToken, Usage
from transom.scheduler import SchedulerOutput


def shape(output: SchedulerOutput | None) -> list[tuple[str, int, int]]:
    """(request id, start, tokens) of each part of a step."""
    assert output is not None
    return [(each.sequence.request_id, each.start, each.num_scheduled_tokens) for each in output.scheduled]


@pytest.mark.parametrize("num_prompt_tokens", [1, 2, 49, 50, 51, 63, 64, 65, 100, 127, 128, 129])
def test_a_request_alone_gets_its_tokens_whatever_the_length_of_its_prompt(num_prompt_tokens: int) -> None:
    driver = make_driver(num_blocks=4)
    request = make_request("a", num_prompt_tokens, max_tokens=20)
    driver.add(request)
    driver.run()
    driver.check_result(request)
    assert driver.cache.stats().num_blocks_used == 0


def test_nothing_is_scheduled_when_there_is_nothing_to_do() -> None:
    assert make_driver(num_blocks=4).scheduler.schedule() is None


def test_a_prompt_is_computed_in_chunks_and_tells_its_progress() -> None:
    driver = make_driver(num_blocks=4)
    driver.add(make_request("a", 120, max_tokens=1))
    progress = [driver.step() for _ in range(3)]
    assert [shape(step) for step in driver.steps] == [[("a", 0, 50)], [("a", 50, 50)], [("a", 100, 20)]]
    assert [output.num_computed_tokens for outputs in progress for output in outputs] == [50, 100, 120]
    assert [output.token_ids for outputs in progress[:2] for output in outputs] == [(), ()]


def test_decoding_goes_first_and_prompts_share_what_is_left() -> None:
    driver = make_driver(num_blocks=20)
    driver.add(make_request("a", 10, max_tokens=9, ignore_eos=True))
    driver.step()
    driver.add(make_request("b", 30, max_tokens=5), make_request("c", 30, max_tokens=5))
    assert shape(driver.scheduler.schedule()) == [("a", 10, 1), ("b", 0, 30), ("c", 0, 19)]


def test_a_prompt_begun_earlier_is_finished_before_a_later_one() -> None:
    driver = make_driver(num_blocks=20)
    driver.add(make_request("a", 70, max_tokens=5), make_request("b", 70, max_tokens=5))
    driver.step()
    assert shape(driver.scheduler.schedule()) == [("a", 50, 20), ("b", 0, 30)]


def test_priority_goes_before_arrival() -> None:
    driver = make_driver(num_blocks=20)
    driver.add(
        make_request("late", 10, max_tokens=5, priority=1),
        make_request("first", 10, max_tokens=5, priority=0),
        make_request("second", 10, max_tokens=5, priority=0),
    )
    assert [part[0] for part in shape(driver.scheduler.schedule())] == ["first", "second", "late"]


def test_no_more_sequences_run_than_allowed() -> None:
    driver = make_driver(num_blocks=50, max_num_seqs=2)
    driver.add(*(make_request(name, 5, max_tokens=3) for name in "abcde"))
    assert len(shape(driver.scheduler.schedule())) == 2
    assert driver.scheduler.stats().num_waiting == 3


def test_a_request_that_can_never_fit_is_refused_and_forgotten() -> None:
    driver = make_driver(num_blocks=2)
    driver.add(make_request("fits", 100, max_tokens=28))
    with pytest.raises(BudgetExceededError, match="129 tokens"):
        driver.scheduler.add(make_request("never", 100, max_tokens=29))
    assert driver.scheduler.stats().num_waiting == 1
    driver.run()


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(RequestError, match="no tokens"):
        make_driver(num_blocks=2).add(make_request("empty", 0, max_tokens=5))


def test_an_id_that_is_in_use_is_refused_and_free_again_afterwards() -> None:
    driver = make_driver(num_blocks=2)
    driver.add(make_request("a", 5, max_tokens=5))
    with pytest.raises(RequestError, match="'a'"):
        driver.add(make_request("a", 5, max_tokens=5))
    driver.run()
    driver.add(make_request("a", 5, max_tokens=5))
    driver.run()


def test_the_queue_takes_what_can_run_and_what_may_wait_and_no_more() -> None:
    driver = make_driver(num_blocks=50, max_num_seqs=2, max_num_waiting=1)
    driver.add(*(make_request(name, 5, max_tokens=3) for name in "abc"))
    with pytest.raises(QueueFullError, match="3 requests"):
        driver.add(make_request("d", 5, max_tokens=3))
    driver.run()
    driver.add(make_request("d", 5, max_tokens=3))


def test_the_queue_takes_so_many_tokens_and_one_request_of_any_size() -> None:
    requests = [make_request(name, 1000, max_tokens=3) for name in "abcd"]
    driver = make_driver(num_blocks=50, max_num_seqs=1, max_waiting_tokens=2 * requests[0].size_in_tokens)
    driver.add(*requests[:2])
    with pytest.raises(QueueFullError, match="tokens are waiting"):
        driver.add(requests[2])
    driver.run()
    driver.add(requests[2])
    tiny = make_driver(num_blocks=50, max_waiting_tokens=0)
    tiny.add(requests[3])
    tiny.run()
    tiny.check_result(requests[3])


def test_an_end_of_sequence_token_ends_the_sequence_and_is_its_last_token() -> None:
    driver = make_driver(num_blocks=4)
    request = find_request(lambda request: 3 < len(expected_tokens(request)) < 100, max_tokens=100)
    driver.add(request)
    driver.run()
    driver.check_result(request)
    last = driver.heard[request.request_id][-1]
    assert (last.finish_reason, last.stop_token_id, last.token_ids) == (FinishReason.STOP, EOS, (EOS,))


def test_an_ignored_end_of_sequence_token_does_not_end_the_sequence() -> None:
    driver = make_driver(num_blocks=4)
    ending = find_request(lambda request: len(expected_tokens(request)) < 100, max_tokens=100)
    request = make_request(ending.request_id, len(ending.prompt_token_ids), max_tokens=100, ignore_eos=True)
    driver.add(request)
    driver.run()
    driver.check_result(request)
    assert driver.finish_reason(request.request_id) is FinishReason.LENGTH


def test_a_stop_token_of_the_request_ends_it_even_when_eos_is_ignored() -> None:
    request = make_request("a", 10, max_tokens=50, ignore_eos=True)
    stop = expected_tokens(request)[5]
    request = make_request("a", 10, max_tokens=50, ignore_eos=True, stop_token_ids=(stop,))
    driver = make_driver(num_blocks=4)
    driver.add(request)
    driver.run()
    driver.check_result(request)
    assert driver.heard["a"][-1].stop_token_id == stop
    assert len(driver.tokens("a")) <= 6


def test_no_stop_token_ends_a_sequence_before_min_tokens() -> None:
    stops = tuple(range(50))
    driver = make_driver(num_blocks=4)
    driver.add(make_request("a", 10, max_tokens=50, stop_token_ids=stops, min_tokens=7))
    driver.run()
    assert len(driver.tokens("a")) == 8
    assert driver.finish_reason("a") is FinishReason.STOP


def test_a_stop_token_as_the_last_allowed_token_counts_as_stop() -> None:
    driver = make_driver(num_blocks=4)
    driver.add(make_request("a", 10, max_tokens=1, stop_token_ids=tuple(range(50))))
    driver.run()
    assert driver.finish_reason("a") is FinishReason.STOP


def test_a_request_for_no_tokens_ends_when_its_prompt_is_computed() -> None:
    driver = make_driver(num_blocks=4)
    request = make_request("a", 120, max_tokens=0, prompt_logprobs=0)
    driver.add(request)
    driver.run()
    driver.check_result(request)
    assert driver.finish_reason("a") is FinishReason.LENGTH
    assert not any(each.needs_sample for step in driver.steps for each in step.scheduled)


def test_two_sequences_can_finish_in_one_step() -> None:
    driver = make_driver(num_blocks=4)
    requests = [make_request(name, 10, max_tokens=3, ignore_eos=True) for name in "ab"]
    driver.add(*requests)
    driver.step()
    driver.step()
    assert [output.finish_reason for output in driver.step()] == [FinishReason.LENGTH] * 2
    assert driver.cache.stats().num_blocks_used == 0


def test_log_probabilities_come_only_to_who_asked() -> None:
    driver = make_driver(num_blocks=4)
    driver.add(make_request("a", 5, max_tokens=3, logprobs=0), make_request("b", 5, max_tokens=3))
    for output in driver.step():
        assert (output.logprobs is not None) == (output.request_id == "a")


def test_a_seed_is_kept_and_a_missing_one_is_drawn_once() -> None:
    driver = make_driver(num_blocks=4)
    driver.add(make_request("given", 5, max_tokens=3, seed=0), make_request("fresh", 5, max_tokens=3))
    output = driver.scheduler.schedule()
    assert output is not None
    assert [each.sequence.seed for each in output.scheduled] == [0, 4711]


def test_prompt_log_probabilities_are_asked_for_once_per_position_in_small_chunks() -> None:
    driver = make_driver(num_blocks=10, max_num_batched_tokens=300)
    request = make_request("a", 150, max_tokens=2, prompt_logprobs=1)
    driver.add(request, make_request("b", 200, max_tokens=2))
    driver.run()
    rows = [
        (each.start, each.num_scheduled_tokens, each.num_prompt_logprob_rows)
        for step in driver.steps
        for each in step.scheduled
        if each.sequence.request_id == "a"
    ]
    assert rows[:3] == [(0, 64, 64), (64, 64, 64), (128, 22, 21)]
    driver.check_result(request)


def test_requests_share_the_rows_for_prompt_log_probabilities() -> None:
    driver = make_driver(num_blocks=10, max_num_batched_tokens=300)
    requests = [make_request(name, 100, max_tokens=2, prompt_logprobs=1) for name in "ab"]
    driver.add(*requests)
    driver.run()
    for request in requests:
        driver.check_result(request)


def test_a_wrong_number_of_prompt_log_probabilities_is_an_error() -> None:
    driver = make_driver(num_blocks=4)
    driver.add(make_request("a", 10, max_tokens=2, prompt_logprobs=1))
    output = driver.scheduler.schedule()
    assert output is not None
    with pytest.raises(ValueError, match="0 prompt log probabilities came for a, 9 were due"):
        driver.scheduler.update(output, {"a": (SampledToken(5),)})


def test_under_pressure_the_last_in_turn_gives_up_its_room_and_loses_nothing() -> None:
    driver = make_driver(num_blocks=4)
    requests = [make_request(name, 60, max_tokens=100, ignore_eos=True) for name in "ab"]
    driver.add(*requests)
    driver.run()
    for request in requests:
        driver.check_result(request)
    assert driver.scheduler.stats().num_preemptions > 0
    assert {name for step in driver.steps for name in step.preempted} == {"b"}


def test_a_preempted_sequence_goes_before_those_that_never_ran() -> None:
    driver = make_driver(num_blocks=4)
    requests = [make_request(name, 60, max_tokens=70, ignore_eos=True) for name in "abc"]
    driver.add(*requests)
    driver.run()
    first_seen = list(dict.fromkeys(part[0] for step in driver.steps for part in shape(step)))
    last_output = {name: len(driver.heard[name]) for name in "abc"}
    assert first_seen == ["a", "b", "c"]
    assert all(last_output.values())
    for request in requests:
        driver.check_result(request)


def test_a_preempted_sequence_hears_its_prompt_log_probabilities_once() -> None:
    driver = make_driver(num_blocks=6, max_num_batched_tokens=40)
    requests = [make_request(name, 90, max_tokens=150, ignore_eos=True, prompt_logprobs=0) for name in "ab"]
    driver.add(*requests)
    driver.run()
    assert driver.scheduler.stats().num_preemptions > 0
    for request in requests:
        driver.check_result(request)


def test_a_sequence_preempted_in_the_middle_of_its_prompt_log_probabilities_continues_them() -> None:
    """One row a step: meanwhile the other sequence outgrows the room that was left for it."""
    driver = make_driver(num_blocks=6, max_num_batched_tokens=2)
    early = make_request("early", 60, max_tokens=300, ignore_eos=True)
    driver.add(early)
    while not driver.tokens("early"):
        driver.step()
    late = make_request("late", 150, max_tokens=5, prompt_logprobs=0)
    driver.add(late)
    while not (driver.steps and driver.steps[-1].preempted):
        driver.step()
    rows_before = sum(each.num_prompt_logprob_rows for step in driver.steps for each in step.scheduled)
    assert 0 < rows_before < 149
    driver.run()
    for request in (early, late):
        driver.check_result(request)
    assert sum(each.num_prompt_logprob_rows for step in driver.steps for each in step.scheduled) == 149


def test_a_large_request_at_the_head_of_the_queue_is_not_overtaken() -> None:
    driver = make_driver(num_blocks=6)
    driver.add(make_request("running", 100, max_tokens=30, ignore_eos=True))
    driver.step()
    driver.add(make_request("large", 300, max_tokens=5), make_request("small", 5, max_tokens=5))
    driver.step()
    assert driver.scheduler.stats().num_waiting == 2
    driver.run()
    started = list(dict.fromkeys(part[0] for step in driver.steps for part in shape(step)))
    assert started == ["running", "large", "small"]


def test_requests_are_not_started_only_to_be_preempted_while_they_read_their_prompts() -> None:
    driver = make_driver(num_blocks=10, max_num_batched_tokens=32)
    requests = [make_request(f"r{index}", 250, max_tokens=5) for index in range(6)]
    driver.add(*requests)
    driver.run()
    assert driver.scheduler.stats().num_preemptions == 0


def test_sliding_layers_let_a_long_prompt_through_a_small_arena() -> None:
    driver = Driver(make_cache(8, (SLIDING, SLIDING), 70, chunk=50))
    request = make_request("a", 2000, max_tokens=30)
    driver.add(request)
    driver.run()
    driver.check_result(request)


@pytest.mark.parametrize("num_steps", [0, 1, 2, 3, 5, 8, 40])
def test_after_an_abort_in_any_state_the_blocks_are_free_and_the_others_go_on(num_steps: int) -> None:
    driver = make_driver(num_blocks=5)
    doomed = make_request("doomed", 120, max_tokens=60, ignore_eos=True)
    other = make_request("other", 60, max_tokens=60, ignore_eos=True)
    driver.add(doomed, other)
    for _ in range(num_steps):
        driver.step()
    assert driver.scheduler.abort("doomed")
    assert not driver.scheduler.abort("doomed")
    driver.check_integrity()
    driver.run()
    driver.check_result(other)
    assert driver.cache.stats().num_blocks_used == 0
    assert driver.tokens("doomed") == expected_tokens(doomed)[: len(driver.tokens("doomed"))]


def test_an_abort_of_a_preempted_sequence_takes_it_out_of_the_queue() -> None:
    driver = make_driver(num_blocks=4)
    driver.add(*(make_request(name, 60, max_tokens=100, ignore_eos=True) for name in "ab"))
    while driver.scheduler.stats().num_preemptions == 0:
        driver.step()
    assert driver.scheduler.stats().num_waiting == 1
    assert driver.scheduler.abort("b")
    assert driver.scheduler.stats().num_waiting == 0
    driver.run()


def test_an_abort_between_schedule_and_update_is_not_heard_of_again() -> None:
    driver = make_driver(num_blocks=4)
    driver.add(make_request("a", 10, max_tokens=5), make_request("b", 10, max_tokens=5))
    output = driver.scheduler.schedule()
    assert output is not None
    assert driver.scheduler.abort("a")
    results = driver.scheduler.update(output, driver.sampled(output), driver.prompt_logprobs(output))
    assert [result.request_id for result in results] == ["b"]
    driver.check_integrity()


def test_an_unknown_request_cannot_be_aborted_or_failed() -> None:
    scheduler = make_driver(num_blocks=4).scheduler
    assert not scheduler.abort("nobody")
    assert scheduler.fail("nobody", "because") is None


def test_a_failed_request_says_why_and_leaves_the_others_alone() -> None:
    driver = make_driver(num_blocks=4)
    requests = [make_request(name, 10, max_tokens=5) for name in "ab"]
    driver.add(*requests)
    output = driver.scheduler.schedule()
    assert output is not None
    failed = driver.scheduler.fail("a", "no usable logits")
    assert failed is not None
    assert (failed.finish_reason, failed.error, failed.usage) == (
        FinishReason.ERROR,
        "no usable logits",
        Usage(num_prompt_tokens=10, num_completion_tokens=0),
    )
    driver.finish_step_without("a", output)
    driver.run()
    driver.check_result(requests[1])


def test_the_counters_add_up() -> None:
    driver = make_driver(num_blocks=4)
    requests = [make_request(name, 60, max_tokens=70, ignore_eos=True) for name in "abc"]
    driver.add(*requests)
    driver.run()
    stats = driver.scheduler.stats()
    assert (stats.num_running, stats.num_waiting) == (0, 0)
    assert (stats.num_prompt_tokens, stats.num_cached_tokens, stats.num_generated_tokens) == (180, 0, 210)
    assert stats.num_computed_tokens == sum(step.num_tokens for step in driver.steps) > 180 + 210 - 3
    assert stats.num_preemptions == sum(len(step.preempted) for step in driver.steps)


def find_request(wanted: object, max_tokens: int) -> Request:
    """The first request of a series whose text is as wanted."""
    assert callable(wanted)
    requests = (make_request(f"r{index}", 10, max_tokens=max_tokens) for index in range(1000))
    return next(request for request in requests if wanted(request))


class SchedulerMachine(RuleBasedStateMachine):
    """Requests that come, go and fail at random in an arena too small for all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: dict[str, Request] = {}
        self.num_requests = 0

    @initialize(chunk=st.sampled_from([1, 3, 20, 100]), max_draft_tokens=st.sampled_from([0, 2, 15]))
    def create(self, chunk: int, max_draft_tokens: int) -> None:
        cache = make_cache(12, (FULL, SLIDING), 40, chunk=chunk)
        self.driver = Driver(
            cache,
            max_num_seqs=3,
            max_num_waiting=5,
            max_num_batched_tokens=chunk,
            max_draft_tokens=max_draft_tokens,
            model=repeating_token,
        )

    @rule(
        num_prompt_tokens=st.integers(1, 200),
        max_tokens=st.integers(0, 200),
        priority=st.integers(0, 1),
        prompt_logprobs=st.sampled_from([None, 0]),
        ignore_eos=st.booleans(),
    )
    def add(self, num_prompt_tokens: int, max_tokens: int, **options: object) -> None:
        self.num_requests += 1
        request = make_request(f"request-{self.num_requests}", num_prompt_tokens, max_tokens, **options)
        try:
            self.driver.add(request)
        except QueueFullError:
            stats = self.driver.scheduler.stats()
            assert stats.num_running + stats.num_waiting == 8
        except BudgetExceededError:
            assert num_prompt_tokens + max_tokens > 200
        else:
            self.requests[request.request_id] = request

    @rule(count=st.integers(1, 60))
    def step(self, count: int) -> None:
        for _ in range(count):
            self.driver.step()

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(list(self.requests)))
        is_alive = self.driver.scheduler.abort(request_id)
        request = self.requests.pop(request_id)
        if is_alive:
            heard = self.driver.tokens(request_id)
            assert heard == expected_tokens(request, repeating_token)[: len(heard)]
        else:
            self.driver.check_result(request)

    @invariant()
    def no_block_is_leaked(self) -> None:
        self.driver.check_integrity()

    def teardown(self) -> None:
        self.driver.run()
        for request in self.requests.values():
            self.driver.check_result(request)
        assert self.driver.cache.stats().num_blocks_used == 0


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
