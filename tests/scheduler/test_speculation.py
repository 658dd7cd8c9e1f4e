"""The scheduler with guesses: the same tokens in fewer steps, and nobody pays for another's guesses."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cache.small_models import FULL, SLIDING, make_cache
from tests.scheduler.driver import EOS, Driver, expected_tokens, make_request, repeating_token
from transom.cache import CacheManager
from transom.request import CacheOptions, CacheStrategy, Request, SampledToken, SamplingParams
from transom.scheduler import SchedulerOutput


def make_driver(cache: CacheManager | None = None, **options: int) -> Driver:
    cache = cache or make_cache(40, (FULL, SLIDING), 40, chunk=options.get("max_num_batched_tokens", 50))
    return Driver(cache, **{"max_draft_tokens": 8, **options}, model=repeating_token)  # type: ignore[arg-type]


def drafted(output: SchedulerOutput) -> dict[str, int]:
    return {each.sequence.request_id: len(each.draft) for each in output.scheduled}


def run_all(driver: Driver, *requests: Request) -> None:
    driver.add(*requests)
    driver.run()
    for request in requests:
        driver.check_result(request)


def test_a_text_that_repeats_itself_takes_fewer_steps_and_has_the_same_tokens() -> None:
    driver, request = make_driver(), make_request("a", 30, 200, ignore_eos=True)
    run_all(driver, request)
    stats = driver.scheduler.stats()
    assert len(driver.steps) < 120
    assert 0 < stats.num_accepted_tokens < stats.num_drafted_tokens
    assert stats.num_generated_tokens == 200
    assert stats.num_computed_tokens == 30 + 199 + stats.num_drafted_tokens - stats.num_accepted_tokens


def test_no_step_has_guesses_where_they_are_switched_off_by_engine_or_request() -> None:
    for limit, own in ((0, None), (8, 0)):
        driver = make_driver(max_draft_tokens=limit)
        sampling = SamplingParams(100, ignore_eos=True)
        run_all(driver, Request("a", (1, 2, 3) * 9, sampling, max_draft_tokens=own))
        assert driver.scheduler.stats().num_drafted_tokens == 0


def test_a_request_may_lower_the_number_of_guesses() -> None:
    driver = make_driver()
    run_all(driver, Request("a", (1, 2, 3) * 9, SamplingParams(100, ignore_eos=True), max_draft_tokens=2))
    assert max(length for step in driver.steps for length in drafted(step).values()) == 2


@pytest.mark.parametrize("max_tokens", range(1, 20))
def test_a_sequence_never_gets_more_than_max_tokens(max_tokens: int) -> None:
    run_all(make_driver(), make_request("a", 80, max_tokens, ignore_eos=True))


@pytest.mark.parametrize("options", [{}, {"min_tokens": 60}, {"stop_token_ids": (3,)}, {"stop_token_ids": (5, 7)}])
def test_end_tokens_end_where_they_would_without_guesses(options: dict[str, object]) -> None:
    requests = [make_request(f"r{index}", 30 + index, 150, **options) for index in range(4)]
    assert any(EOS in expected_tokens(request, repeating_token) for request in requests)
    run_all(make_driver(max_num_batched_tokens=200), *requests)


def test_guesses_preempt_nobody_and_take_no_block() -> None:
    plain, guessing = (make_driver(make_cache(12, chunk=50), max_draft_tokens=count) for count in (0, 8))
    for driver in (plain, guessing):
        run_all(driver, *(make_request(name, 60, 150, ignore_eos=True) for name in "abc"))
    assert guessing.scheduler.stats().num_drafted_tokens > 0
    assert 0 < guessing.scheduler.stats().num_preemptions <= plain.scheduler.stats().num_preemptions
    for step in guessing.steps:
        for each in step.scheduled:
            known = each.end - len(each.draft)
            assert (each.end - 1) // 64 == (known - 1) // 64


def test_guesses_take_no_token_of_a_step_that_a_prompt_wants() -> None:
    driver = make_driver(max_num_batched_tokens=40)
    driver.add(Request("a", (1, 2, 3) * 9, SamplingParams(100, ignore_eos=True)))
    for _ in range(4):
        driver.step()
    driver.add(make_request("long", 400, 5))
    while driver.scheduler.stats().num_prompt_tokens < 427 or len(driver.heard["long"]) < 9:
        driver.step()
        chunk = next((each for each in driver.steps[-1].scheduled if each.sequence.request_id == "long"), None)
        if chunk is not None and not chunk.needs_sample:
            assert chunk.num_scheduled_tokens == 39
    driver.run()


def test_where_attention_decides_what_is_forgotten_nothing_is_guessed() -> None:
    driver = make_driver(make_cache(16, chunk=20), max_num_batched_tokens=20)
    request = Request(
        "a", (1, 2, 3) * 9, SamplingParams(100, ignore_eos=True), cache=CacheOptions(CacheStrategy.ADAPTIVE)
    )
    run_all(driver, request)
    assert driver.scheduler.stats().num_drafted_tokens == 0


def test_over_a_cold_tier_the_tokens_are_the_same(tmp_path: Path) -> None:
    cache = make_cache(12, chunk=50, max_ssd_bytes=4 * 2**20, ssd_path=tmp_path / "cold")
    try:
        driver = make_driver(cache)
        run_all(driver, *(make_request(name, 200, 150, ignore_eos=True) for name in "abc"))
        assert driver.scheduler.stats().num_accepted_tokens > 0
    finally:
        cache.shut_down()


def step_with_a_draft(driver: Driver) -> SchedulerOutput:
    """Scheduled, not computed."""
    for _ in range(60):
        output = driver.scheduler.schedule()
        assert output is not None
        if output.scheduled[0].draft:
            return output
        driver.finish_step(output)
    raise AssertionError("nothing is guessed")


@pytest.mark.parametrize("count", [0, 6])
def test_a_wrong_number_of_tokens_is_an_error(count: int) -> None:
    driver = make_driver(max_draft_tokens=4)
    driver.add(Request("a", (1, 2, 3) * 9, SamplingParams(100, ignore_eos=True)))
    output = step_with_a_draft(driver)
    with pytest.raises(
        ValueError, match=f"{count} tokens came for a and its draft of {len(output.scheduled[0].draft)}"
    ):
        driver.scheduler.update(output, {"a": (SampledToken(1),) * count})


def test_a_sequence_that_is_preempted_with_a_draft_says_nothing_twice() -> None:
    driver = make_driver()
    request = Request("a", (1, 2, 3) * 9, SamplingParams(100, ignore_eos=True))
    driver.add(request)
    for _ in range(200):
        output = driver.scheduler.schedule()
        if output is None:
            break
        handle = output.scheduled[0].sequence.cache
        if output.scheduled[0].draft and len(driver.steps) % 4 == 0 and handle is not None:
            driver.scheduler.give_up_lost(output, [handle])
            output = driver.scheduler.schedule()
            assert output is not None
        driver.finish_step(output)
        if driver.scheduler.stats().num_preemptions == 3:
            break
    driver.run()
    driver.check_result(request)
