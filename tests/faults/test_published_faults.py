"""Faults between runs that leave blocks to each other: whatever fails, is damaged or vanishes, no token is wrong."""

from __future__ import annotations

import itertools
import logging
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from tests.faults.faulty_engine import Answer, FaultyEngine, make_requests, write_model
from tests.faults.test_io_faults import places_with_bytes
from tests.faulty_database import FaultyDatabase
from transom.cache.file_system import FileSystem, RealFileSystem
from transom.errors import ConfigError
from transom.kernels import IOFault
from transom.request import FinishReason

REQUESTS = make_requests([330, 70], max_tokens=3)
MAX_SSD_BYTES = 2**21
COLD_FILE = "cold-full.kv"
MANY_CALLS = 10**9


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


def occupied(directory: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in (directory, *directory.iterdir()))


class Run:
    """One run over a directory, and what was seen of it."""

    def __init__(self, model: Path, directory: Path, file_system: FileSystem | None = None) -> None:
        engine = FaultyEngine(
            model, ssd_path=directory, max_ssd_bytes=MAX_SSD_BYTES, file_system=file_system, outlives=True
        )
        try:
            self.answers = engine.answers(REQUESTS)
            self.is_durable = engine.cache.flush(5)
            stats = engine.cache.stats()
            self.num_hit_tokens = stats.reuse.num_hit_tokens
            transfers = stats.tiers[-1].transfers
            self.num_failed_reads = transfers.num_checksum_failures + transfers.num_read_errors
        finally:
            engine.close()


@pytest.fixture(scope="module")
def left(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run without faults leaves; to be copied."""
    directory = tmp_path_factory.mktemp("left") / "cold"
    assert Run(model, directory).num_hit_tokens == 0
    return directory


def copied(left: Path, tmp_path: Path) -> Path:
    directory = tmp_path / "cold"
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(left, directory, copy_function=_copy_sparse)
    return directory


def _copy_sparse(source: str, target: str) -> None:
    subprocess.run(["cp", "--sparse=always", "--preserve=mode", source, target], check=True)


def test_the_next_run_begins_with_what_was_left(
    model: Path, expected: list[Answer], left: Path, tmp_path: Path
) -> None:
    directory = copied(left, tmp_path)
    for _ in range(2):
        run = Run(model, directory)
        assert run.answers == expected
        assert run.num_hit_tokens >= 256
        assert run.num_failed_reads == 0
        assert occupied(directory) <= MAX_SSD_BYTES


Kind = Literal["EIO", "ENOSPC", "EDQUOT", "EINTR", "short", "corrupt"]


def kinds(stride: int) -> list[object]:
    every = [pytest.param(kind, 1, marks=pytest.mark.slow) for kind in ("EIO", "ENOSPC", "EINTR", "short", "corrupt")]
    return [*(pytest.param(kind, stride) for kind in ("EIO", "ENOSPC", "corrupt")), *every]


@pytest.mark.parametrize(("kind", "stride"), kinds(stride=17))
def test_whichever_transfer_fails_this_run_and_the_next_give_the_tokens_of_ram(
    model: Path, expected: list[Answer], left: Path, tmp_path: Path, kind: Kind, stride: int
) -> None:
    """Reading what was left, writing more, or punching what nobody wants."""
    for nth in itertools.count(1, stride):
        directory = copied(left, tmp_path)
        fault = IOFault(nth, kind)
        assert Run(model, directory, RealFileSystem(fault)).answers == expected, f"{kind} at call {nth}"
        assert Run(model, directory).answers == expected, f"after {kind} at call {nth}"
        assert occupied(directory) <= MAX_SSD_BYTES
        if fault.num_calls < nth:
            assert fault.num_calls > 20
            return


@pytest.mark.parametrize(("kind", "stride"), [("ioerr", 13), pytest.param("corrupt", 1, marks=pytest.mark.slow)])
def test_whichever_call_for_records_fails_this_run_and_the_next_give_the_tokens_of_ram(
    model: Path, expected: list[Answer], tmp_path: Path, kind: Literal["ioerr", "corrupt"], stride: int
) -> None:
    for nth in itertools.count(1, stride):
        directory = tmp_path / str(nth)
        disk = FaultyDatabase(nth, kind)
        assert Run(model, directory, disk).answers == expected, f"{kind} at call {nth}"
        assert Run(model, directory).answers == expected, f"after {kind} at call {nth}"
        assert occupied(directory) <= MAX_SSD_BYTES
        if disk.num_calls < nth:
            assert disk.num_calls > 15
            return


@pytest.mark.parametrize("step", [41, pytest.param(1, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])])
def test_a_flipped_byte_of_a_published_block_is_a_miss(
    model: Path, expected: list[Answer], left: Path, tmp_path: Path, step: int
) -> None:
    """One in each stretch of 4 KiB of every block, at a place that moves on."""
    num_noticed = 0
    with (left / COLD_FILE).open("rb") as file:
        places = places_with_bytes(file.fileno(), (left / COLD_FILE).stat().st_size)
    for number, place in enumerate(places[::step]):
        directory = copied(left, tmp_path)
        with (directory / COLD_FILE).open("r+b") as file:
            file.seek(place + number)
            [byte] = file.read(1)
            file.seek(-1, 1)
            file.write(bytes([byte ^ 1 << number % 8]))
        run = Run(model, directory)
        assert run.answers == expected, f"byte {place + number}"
        num_noticed += run.num_failed_reads > 0
    assert num_noticed > 0


@pytest.mark.parametrize("damage", ["cut", "zeros", "swapped", "gone", "database gone", "format gone", "other format"])
def test_damaged_and_missing_files_are_misses(
    model: Path, expected: list[Answer], left: Path, tmp_path: Path, damage: str
) -> None:
    directory = copied(left, tmp_path)
    path = directory / COLD_FILE
    size = path.stat().st_size
    match damage:
        case "cut":
            with path.open("r+b") as file:
                file.truncate(size // 2)
        case "zeros":
            path.write_bytes(b"")
            with path.open("r+b") as file:
                file.truncate(size)
        case "swapped":  # two blocks, each whole
            with path.open("r+b") as file:
                first = file.read(8192)
                second = file.read(8192)
                file.seek(0)
                file.write(second + first)
        case "gone":
            path.unlink()
        case "database gone":
            (directory / "prefix.sqlite").unlink()
        case "format gone":
            (directory / "format.json").unlink()
        case _:
            (directory / "format.json").write_text('{"format": "transom-cold", "version": 1}')
    run = Run(model, directory)
    assert run.answers == expected
    assert run.num_failed_reads > 0 or run.num_hit_tokens == 0
    again = Run(model, directory)
    assert again.answers == expected
    assert again.num_hit_tokens >= 256


def test_a_directory_that_vanishes_under_a_run_costs_no_token(
    model: Path, expected: list[Answer], left: Path, tmp_path: Path
) -> None:
    directory = copied(left, tmp_path)
    for moment in (0, 2, 5):
        directory = copied(left, tmp_path)
        engine = FaultyEngine(model, ssd_path=directory, max_ssd_bytes=MAX_SSD_BYTES, outlives=True)
        steps = itertools.count()

        def vanish(steps: Iterator[int] = steps, moment: int = moment, directory: Path = directory) -> None:
            if next(steps) == moment:
                shutil.rmtree(directory)

        for answer, right in zip(engine.answers(REQUESTS, after_step=vanish), expected, strict=True):
            assert answer == right or answer.finish_reason is FinishReason.ABORT  # there is no room any more
            assert answer.token_ids == right.token_ids[: len(answer.token_ids)]
        engine.cache.shut_down()
        assert Run(model, directory).answers == expected


def test_a_second_engine_is_refused_and_disturbs_nothing(
    model: Path, expected: list[Answer], left: Path, tmp_path: Path
) -> None:
    directory = copied(left, tmp_path)
    engine = FaultyEngine(model, ssd_path=directory, max_ssd_bytes=MAX_SSD_BYTES, outlives=True)
    with pytest.raises(ConfigError, match="locked by another server"):
        FaultyEngine(model, ssd_path=directory, max_ssd_bytes=MAX_SSD_BYTES, outlives=True)
    assert engine.answers(REQUESTS) == expected
    engine.close()
    assert Run(model, directory).num_hit_tokens >= 256


@pytest.mark.parametrize("kib", [200, 400])
def test_a_disk_that_fills_up_costs_the_next_run_its_hits_alone(
    model: Path, expected: list[Answer], tmp_path: Path, kib: int
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("only root may mount a tmpfs")
    try:
        for _ in range(3):
            assert Run(model, disk / "cold").answers == expected
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_rubbish_in_every_small_file_starts_anew(
    model: Path, expected: list[Answer], left: Path, tmp_path: Path
) -> None:
    rng = random.Random(0)
    for name in ("prefix.sqlite", "prefix.sqlite-wal", "fingerprint.json"):
        directory = copied(left, tmp_path)
        (directory / name).write_bytes(rng.randbytes(5000))
        assert Run(model, directory).answers == expected
        assert Run(model, directory).num_hit_tokens >= 256
