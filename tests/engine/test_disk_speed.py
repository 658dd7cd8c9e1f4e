"""What the disk does is measured with the cold tier's own files, and nothing of that is left."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from transom.cache.file_system import RealFileSystem
from transom.engine.disk_speed import measure_disk, nearest_directory
from transom.errors import ConfigError
from transom.kernels import IOFault

SIZES = (65536, 262144)
MIB = 2**20


def test_a_directory_is_measured_and_left_as_it_was(tmp_path: Path) -> None:
    speed = measure_disk(tmp_path, SIZES, num_bytes=2 * MIB, seconds=0.2)
    assert min(speed.write_bytes_per_second, speed.read_bytes_per_second, *speed.random_bytes_per_second.values()) > 0
    assert set(speed.random_bytes_per_second) == set(SIZES)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    measure_disk(tmp_path / "later" / "cold", SIZES, num_bytes=MIB, seconds=0.1)
    assert list(tmp_path.iterdir()) == []
    assert nearest_directory(tmp_path / "later" / "cold") == tmp_path


def test_without_direct_io_it_says_so(tmp_path: Path) -> None:
    disk = RealFileSystem(direct_io=False)
    assert not measure_disk(tmp_path, SIZES, num_bytes=MIB, seconds=0.1, file_system=disk).is_direct


@pytest.mark.parametrize("kind", ["ENOSPC", "EIO"])
def test_a_disk_that_fails_is_an_error_and_nothing_is_left(tmp_path: Path, kind: str) -> None:
    disk = RealFileSystem(fault=IOFault(2, kind, persistent=True))  # type: ignore[arg-type]
    with pytest.raises(OSError, match="failed"):
        measure_disk(tmp_path, SIZES, num_bytes=64 * MIB, file_system=disk)
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((OSError, ConfigError)):
        measure_disk(tmp_path / "file", SIZES, num_bytes=MIB)


def test_an_interrupt_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    ticks = itertools.count()

    def clock() -> float:
        if next(ticks) == 3:
            raise KeyboardInterrupt
        return 0.0

    with pytest.raises(KeyboardInterrupt):
        measure_disk(tmp_path, SIZES, num_bytes=64 * MIB, clock=clock)
    assert list(tmp_path.iterdir()) == []


def test_a_slow_disk_is_measured_by_fewer_bytes(tmp_path: Path) -> None:
    seconds = itertools.count()
    speed = measure_disk(tmp_path, SIZES, num_bytes=64 * MIB, seconds=1.0, clock=lambda: float(next(seconds)))
    assert speed.write_bytes_per_second < 64 * MIB
