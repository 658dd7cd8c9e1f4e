"""A disk that is smaller than `max_ssd_mb` says, and fills up: spilling stops, serving does not, no token is wrong."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.faulty_engine import FaultyEngine, make_requests, write_model
from transom.request import FinishReason

KIB = 1024
BLOCK_BYTES = 2 * 8 * KIB
"""Of both layers of the tiny model, in whole pages."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    write_model(directory)
    return directory


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "transom")


@pytest.fixture
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system of so many KiB."""
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={request.param}k", "tmpfs", str(path)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"only root may mount a tmpfs: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.mark.parametrize("disk", [256, 4096], indirect=True)
def test_requests_that_fit_one_by_one_take_turns_on_a_disk_that_holds_one_of_them(model: Path, disk: Path) -> None:
    """Each needs eight blocks or more on disk, 128 KiB; four together fill the smaller disk three times over."""
    requests = make_requests([700, 660, 680, 690], max_tokens=10)
    in_ram = FaultyEngine(model, ram_bytes=2**24)
    expected = in_ram.answers(requests)
    in_ram.close()
    engine = FaultyEngine(model, ssd_path=disk / "cold", max_ssd_bytes=2**24)
    assert engine.answers(requests) == expected
    engine.close()


@pytest.mark.parametrize("disk", [96], indirect=True)
def test_what_the_disk_cannot_hold_waits_and_does_not_take_others_with_it(model: Path, disk: Path) -> None:
    long, short = make_requests([700, 100], max_tokens=10)
    in_ram = FaultyEngine(model, ram_bytes=2**24)
    [_, expected] = in_ram.answers([long, short])
    in_ram.close()
    engine = FaultyEngine(model, ssd_path=disk / "cold", max_ssd_bytes=2**24)
    [waiting] = engine.answers([long])
    [cold] = engine.cache.stats().tiers[1:]
    assert waiting.finish_reason is FinishReason.ABORT  # by its caller, who had enough
    assert waiting.token_ids == []
    assert cold.transfers.num_pauses > 1  # it was tried again, half a minute later
    assert cold.transfers.num_write_errors > 1
    assert engine.answers([short]) == [expected]
    engine.close()


def test_a_disk_without_room_for_one_block_still_serves_what_fits_in_ram(model: Path, tmp_path: Path) -> None:
    """The same by the budget: files of others came while the server ran."""
    [long, short] = make_requests([700, 100], max_tokens=10)
    in_ram = FaultyEngine(model, ram_bytes=2**24)
    [_, expected] = in_ram.answers([long, short])
    in_ram.close()
    max_ssd_bytes = 40 * BLOCK_BYTES
    engine = FaultyEngine(model, ssd_path=tmp_path / "cold", max_ssd_bytes=max_ssd_bytes)
    (tmp_path / "cold" / "of-somebody-else").write_bytes(bytes(max_ssd_bytes - BLOCK_BYTES))
    [waiting] = engine.answers([long])
    assert waiting.finish_reason is FinishReason.ABORT
    assert engine.answers([short]) == [expected]
    (tmp_path / "cold" / "of-somebody-else").unlink()
    engine.clock.seconds += 60
    [answered] = engine.answers([long])
    assert answered.finish_reason is FinishReason.LENGTH
    engine.close()
