"""The n-th call to the disk fails, for every n until none does: the tokens are those of RAM, or an error is said."""

from __future__ import annotations

import itertools
import logging
import os
import random
from collections.abc import Iterator
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


def fail_every_call(model: Path, ssd_path: Path, requests: list[Request], kind: Kind, stride: int = 1) -> int:
    """Runs the requests once for each n, or each `stride`-th one, until there is no n-th call; the last n."""
    expected = in_ram(model, requests)
    for nth in itertools.count(1, stride):
        fault = IOFault(nth, kind)
        answers = run(model, ssd_path, requests, fault)
        check(answers, expected, f"{kind} at call {nth}")
        assert all(answer.finish_reason is FinishReason.LENGTH for answer in answers), f"{kind} at call {nth}"
        if fault.num_calls < nth:
            return nth
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
    assert fail_every_call(model, tmp_path, LONG, kind, stride=31) > 200


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


def test_one_flipped_bit_in_a_cold_file_costs_time_and_no_token(model: Path, tmp_path: Path) -> None:
    expected, num_noticed = in_ram(model, LONG), 0
    for moment in range(3, 60, 4):
        engine = FaultyEngine(model, ssd_path=tmp_path)
        steps = itertools.count()

        def flip_at_the_moment(steps: Iterator[int] = steps, moment: int = moment) -> None:
            if next(steps) == moment:
                damage_file(tmp_path / "cold-full.kv", "flip", random.Random(moment))

        assert engine.answers(LONG, after_step=flip_at_the_moment) == expected
        num_noticed += num_damages_noticed(engine)
        engine.close()
    assert num_noticed > 5


@pytest.mark.parametrize("damage", ["flip", "cut", "punch"])
def test_a_cold_file_that_is_damaged_all_the_time_makes_no_token_wrong(
    model: Path, tmp_path: Path, damage: str
) -> None:
    engine = FaultyEngine(model, ssd_path=tmp_path)
    rng = random.Random(5)
    answers = engine.answers(LONG, after_step=lambda: damage_file(tmp_path / "cold-full.kv", damage, rng))
    assert num_damages_noticed(engine) > 0
    engine.close()
    check(answers, in_ram(model, LONG), damage)


def num_damages_noticed(engine: FaultyEngine) -> int:
    transfers = engine.cache.stats().tiers[-1].transfers
    return transfers.num_checksum_failures + transfers.num_read_errors


def damage_file(path: Path, damage: str, rng: random.Random) -> None:
    """One bit anywhere where there are bytes; or the second half of the file is gone, or became zeros."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        if damage == "flip":
            place = rng.choice(places_with_bytes(file.fileno(), size) or [0])
            file.seek(place)
            [byte] = file.read(1)
            file.seek(place)
            file.write(bytes([byte ^ 1 << rng.randrange(8)]))
        else:
            file.truncate(size // 2)
            if damage == "punch":
                file.truncate(size)


def places_with_bytes(descriptor: int, size: int) -> list[int]:
    """Offsets in the file, some in each stretch that is not a hole."""
    places: list[int] = []
    offset = 0
    while offset < size:
        try:
            start = os.lseek(descriptor, offset, os.SEEK_DATA)
        except OSError:
            break
        offset = os.lseek(descriptor, start, os.SEEK_HOLE)
        places += range(start + 777, offset, 4096)
    return places
