"""The scheduler over a cache of two tiers: longer chunks, lost blocks, disks that are full or broken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest

from tests.cache.small_models import make_cache
from tests.scheduler.driver import Driver, make_request
from transom.cache import SequenceCache
from transom.cache.file_system import RealFileSystem
from transom.kernels import IOFault
from transom.request import FinishReason
from transom.scheduler import SchedulerOutput
from transom.scheduler.scheduler import LOST_MESSAGE, MAX_LOSSES, NO_ROOM_MESSAGE

Kind = Literal["EIO", "ENOSPC"]


class Clock:
    """Goes when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def make_driver(directory: Path, num_blocks: int, fault: IOFault | None = None) -> Iterator[tuple[Driver, Clock]]:
    """Two full layers; so many blocks fit into RAM beside a ring of 4 slots, and plenty on SSD."""
    clock = Clock()
    cache = make_cache(
        2 * num_blocks + 4,
        chunk=64,
        max_ssd_bytes=4 * 2**20,
        ssd_path=directory / "cold",
        file_system=RealFileSystem(fault),
        clock=clock,
    )
    try:
        yield Driver(cache, max_num_batched_tokens=64), clock
    finally:
        cache.shut_down()


def schedule(driver: Driver) -> SchedulerOutput:
    output = driver.scheduler.schedule()
    assert output is not None
    return output


def handles_of(output: SchedulerOutput) -> list[SequenceCache]:
    return [each.sequence.cache for each in output.scheduled if each.sequence.cache is not None]


def test_requests_that_do_not_fit_into_ram_get_their_tokens(tmp_path: Path) -> None:
    with make_driver(tmp_path, num_blocks=4) as (driver, _):
        requests = [make_request(name, 300 + 50 * index, 30) for index, name in enumerate("abc")]
        driver.add(*requests)
        driver.run()
        for request in requests:
            driver.check_result(request)


def test_over_cold_blocks_chunks_are_longer_than_a_step(tmp_path: Path) -> None:
    with make_driver(tmp_path, num_blocks=12) as (driver, _):
        driver.add(make_request("a", 2000, 1))
        lengths = []
        while driver.scheduler.has_unfinished_sequences:
            output = schedule(driver)
            lengths.append(output.num_tokens)
            driver.scheduler.update(output, driver.sampled(output))
        assert lengths[0] == 64
        assert 64 < max(lengths) <= 4 * 64
        assert sum(lengths) == 2000


def test_a_sequence_whose_blocks_are_lost_is_computed_again_and_says_nothing_twice(tmp_path: Path) -> None:
    with make_driver(tmp_path, num_blocks=30) as (driver, _):
        lost, other = make_request("lost", 100, 20), make_request("other", 100, 20)
        driver.add(lost, other)
        for _ in range(8):
            driver.step()
        output = schedule(driver)
        rest = driver.scheduler.give_up_lost(output, [each for each in handles_of(output) if each.name == "lost"])
        assert rest is not None
        assert [each.sequence.request_id for each in rest.scheduled] == ["other"]
        driver.finish_step(rest)
        driver.run()
        driver.check_result(lost)
        driver.check_result(other)
        assert driver.scheduler.stats().num_preemptions == 1


def test_a_step_of_nothing_but_lost_sequences_is_over(tmp_path: Path) -> None:
    with make_driver(tmp_path, num_blocks=30) as (driver, _):
        request = make_request("a", 100, 5)
        driver.add(request)
        output = schedule(driver)
        assert driver.scheduler.give_up_lost(output, handles_of(output)) is None
        driver.run()
        driver.check_result(request)


def test_a_sequence_that_is_lost_again_and_again_is_given_up(tmp_path: Path) -> None:
    with make_driver(tmp_path, num_blocks=30) as (driver, _):
        driver.add(make_request("a", 100, 5))
        for _ in range(MAX_LOSSES + 1):
            assert driver.scheduler.take_failed() == []
            output = schedule(driver)
            driver.scheduler.give_up_lost(output, handles_of(output))
        [failed] = driver.scheduler.take_failed()
        assert (failed.finish_reason, failed.error) == (FinishReason.ERROR, LOST_MESSAGE)
        assert not driver.scheduler.has_unfinished_sequences
        assert driver.scheduler.take_failed() == []


def step_until_stuck(driver: Driver) -> None:
    for _ in range(100):
        output = driver.scheduler.schedule()
        if output is None:
            return
        driver.finish_step(output)
    raise AssertionError("room was found")


def test_a_full_disk_makes_a_request_wait_with_what_it_has_until_there_is_room(tmp_path: Path) -> None:
    with make_driver(tmp_path, num_blocks=4, fault=IOFault(1, "ENOSPC")) as (driver, clock):
        request = make_request("a", 400, 10)
        driver.add(request)
        step_until_stuck(driver)
        assert driver.scheduler.stats().num_running == 1
        assert driver.scheduler.stats().num_preemptions == 0
        clock.now += 31.0
        driver.run()
        driver.check_result(request)


@pytest.mark.parametrize(("kind", "reason"), [("EIO", FinishReason.ERROR), ("ENOSPC", None)])
def test_a_broken_disk_fails_only_what_does_not_fit_into_ram(
    tmp_path: Path, kind: Kind, reason: FinishReason | None
) -> None:
    with make_driver(tmp_path, num_blocks=4, fault=IOFault(1, kind, persistent=True)) as (driver, _):
        small, large = make_request("small", 100, 10), make_request("large", 400, 10)
        driver.add(small, large)
        step_until_stuck(driver)
        driver.check_result(small)
        failed = driver.scheduler.take_failed()
        assert [output.finish_reason for output in failed] == ([reason] if reason else [])
        assert all(output.error == NO_ROOM_MESSAGE for output in failed)
        assert driver.scheduler.has_unfinished_sequences == (reason is None)
        driver.scheduler.abort("large")
        driver.cache.check_integrity()
