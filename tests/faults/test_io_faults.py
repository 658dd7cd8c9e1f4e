"""The n-th call to the disk fails, for every n until none does: the tokens are those of RAM, or an error is said."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path
from typing import Literal

import pytest

from tests.faults.faulty_engine import Answer, FaultyEngine, make_requests, write_model
from transom.cache.file_system import RealFileSystem
from transom.kernels import IOFault
from transom.request import FinishReason, Request

Kind = Literal["EIO", "ENOSPC", "EDQUOT", "EINTR", "short", "corrupt"]
KINDS: tuple[Kind, ...] = ("EIO", "ENOSPC", "EDQUOT", "EINTR", "short", "corrupt")
QUICK = make_requests([330, 70], max_tokens=3)
LONG = make_requests([700, 130, 300], max_tokens=20)
MANY_CALLS = 10**9


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    write_model(directory)
    return directory


def in_ram(model: Path, requests: list[Request]) -> list[Answer]:
    engine = FaultyEngine(model, ram_bytes=2**24)
    answers = engine.answers(requests)
    engine.close()
    return answers


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Thousands of faults are logged; only the answers are of interest."""
    caplog.set_level(logging.CRITICAL, "transom")


def run(model: Path, ssd_path: Path, requests: list[Request], fault: IOFault) -> list[Answer]:
    """What the requests get on a disk with this fault."""
    engine = FaultyEngine(model, ssd_path=ssd_path, file_system=RealFileSystem(fault))
    try:
        return engine.answers(requests)
    finally:
        engine.close()


def check(answers: list[Answer], expected: list[Answer], what: str) -> None:
    """Right tokens to the end, or right tokens up to an error that says what happened, or to the caller's patience."""
    for answer, right in zip(answers, expected, strict=True):
        if answer.finish_reason in (FinishReason.ERROR, FinishReason.ABORT):
            assert answer.error or answer.finish_reason is FinishReason.ABORT, what
            assert answer.token_ids == right.token_ids[: len(answer.token_ids)], what
        else:
            assert answer == right, what


def fail_every_call(model: Path, ssd_path: Path, requests: list[Request], kind: Kind) -> int:
    """Runs the requests once for each n, until there is no n-th call; how many calls there were."""
    expected = in_ram(model, requests)
    for nth in itertools.count(1):
        fault = IOFault(nth, kind)
        answers = run(model, ssd_path, requests, fault)
        check(answers, expected, f"{kind} at call {nth}")
        assert all(answer.finish_reason is FinishReason.LENGTH for answer in answers), f"{kind} at call {nth}"
        if fault.num_calls < nth:
            return nth - 1
    raise AssertionError("unreachable")


def test_the_disk_is_in_use_and_changes_no_token(model: Path, tmp_path: Path) -> None:
    for requests in (QUICK, LONG):
        fault = IOFault(MANY_CALLS, "EIO")
        assert run(model, tmp_path, requests, fault) == in_ram(model, requests)
        assert fault.num_calls > 20


@pytest.mark.parametrize("kind", KINDS)
def test_whichever_call_fails_every_request_ends_with_the_tokens_of_ram(
    model: Path, tmp_path: Path, kind: Kind
) -> None:
    assert fail_every_call(model, tmp_path, QUICK, kind) > 20


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_with_three_requests_that_take_turns(model: Path, tmp_path: Path, kind: Kind) -> None:
    assert fail_every_call(model, tmp_path, LONG, kind) > 200


@pytest.mark.parametrize("kind", ["EIO", "ENOSPC", "corrupt"])
def test_a_disk_that_fails_for_good_from_any_call_on_makes_no_token_wrong(
    model: Path, tmp_path: Path, kind: Kind
) -> None:
    expected = in_ram(model, QUICK)
    whole = IOFault(MANY_CALLS, kind)
    run(model, tmp_path, QUICK, whole)
    for nth in range(1, whole.num_calls + 1, 3):
        answers = run(model, tmp_path, QUICK, IOFault(nth, kind, True))
        check(answers, expected, f"{kind} from call {nth} on")
