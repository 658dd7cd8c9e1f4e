"""A disk that hangs: what does not come back in time is computed again, and the others are answered."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path

import pytest

from tests.faults.faulty_engine import Answer, FaultyEngine, make_requests, write_model
from tests.hung_disk import HungDisk
from transom.request import FinishReason

REQUESTS = make_requests([700, 130, 300, 40], max_tokens=20)
SHORT = 3
"""The one that fits into RAM alone."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    write_model(directory)
    return directory


@pytest.fixture(scope="module")
def expected(model: Path) -> list[Answer]:
    engine = FaultyEngine(model, ram_bytes=2**24)
    answers = engine.answers(REQUESTS)
    engine.close()
    return answers


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "transom")


@pytest.mark.parametrize("first_step", range(0, 40, 6))
def test_a_disk_that_hangs_for_a_while_costs_time_and_no_token(
    model: Path, expected: list[Answer], tmp_path: Path, first_step: int
) -> None:
    disk = HungDisk()
    engine = FaultyEngine(model, ssd_path=tmp_path, file_system=disk)
    steps = itertools.count()

    def hang_for_three_steps() -> None:
        disk.hangs = first_step <= next(steps) < first_step + 3

    assert engine.answers(REQUESTS, after_step=hang_for_three_steps) == expected
    engine.close()


@pytest.mark.parametrize("first_step", range(0, 40, 6))
def test_a_disk_that_hangs_for_good_fails_what_needs_it_and_nothing_else(
    model: Path, expected: list[Answer], tmp_path: Path, first_step: int
) -> None:
    disk = HungDisk()
    engine = FaultyEngine(model, ssd_path=tmp_path, file_system=disk)
    steps = itertools.count()

    def hang() -> None:
        disk.hangs = next(steps) >= first_step

    answers = engine.answers(REQUESTS, after_step=hang)
    for answer, right in zip(answers, expected, strict=True):
        assert answer.token_ids == right.token_ids[: len(answer.token_ids)]
        assert answer.finish_reason is FinishReason.LENGTH or "SSD" in (answer.error or "")
    assert len(disk.waits) < 60
    disk.hangs = False
    assert engine.answers(REQUESTS[SHORT:]) == expected[SHORT:]
    engine.close()
