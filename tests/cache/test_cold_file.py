"""Cold directories and their files: what they occupy, what they leave behind, and a disk that fills up."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from transom import kernels
from transom.cache.cold_file import ColdDirectory, ColdFile
from transom.cache.cold_format import ColdFormat, ColdLayout
from transom.cache.file_system import RealFileSystem
from transom.errors import ConfigError
from transom.kernels import IOFault, IOResult

FULL = ColdLayout("full_attention", num_rows=3, capacity=20, slot_bytes=8192)
SLIDING = ColdLayout("sliding_attention", num_rows=2, capacity=5, slot_bytes=5000)
MODEL: dict[str, str | int] = {"model_type": "llama", "kv_dtype": "f16", "head_dim": 64}


@contextmanager
def cold_directory(
    path: Path, *layouts: ColdLayout, fault: IOFault | None = None, direct_io: bool = True
) -> Iterator[ColdDirectory]:
    file_system = RealFileSystem(fault, direct_io=direct_io)
    with closing(ColdDirectory(file_system, path, layouts or (FULL,), MODEL)) as directory:
        yield directory


class Blocks:
    """An arena with the blocks `indices` of a file, all rows, and their checksums."""

    def __init__(self, directory: ColdDirectory, file: ColdFile, indices: list[int]) -> None:
        self.directory = directory
        self.file = file
        self.offsets = file.offsets(np.arange(file.num_rows)[:, None], np.array(indices)).ravel()
        self.slots = np.arange(len(self.offsets), dtype=np.int32)
        self.checksums = np.zeros((len(self.offsets), 2), np.uint64)
        self.arena = kernels.allocate_arena(len(self.offsets) * file.layout.slot_bytes)
        self.arena[:] = np.random.default_rng(0).integers(0, 256, self.arena.nbytes, dtype=np.uint8)

    def write(self) -> IOResult:
        return self._wait(self.directory.queue.submit_writes)

    def read(self) -> IOResult:
        return self._wait(self.directory.queue.submit_reads)

    def errors(self, result: IOResult) -> NDArray[np.int32]:
        """[rows, blocks]"""
        return result.errors.reshape(self.file.num_rows, -1)

    def _wait(self, submit: Callable[..., int]) -> IOResult:
        ticket = submit(self.file.fd, self.offsets, self.arena, self.slots, self.file.layout.slot_bytes, self.checksums)
        return self.directory.queue.wait(ticket, 30)


@pytest.mark.parametrize("direct_io", [True, False])
def test_blocks_of_every_file_come_back(tmp_path: Path, direct_io: bool) -> None:
    with cold_directory(tmp_path / "model", FULL, SLIDING, direct_io=direct_io) as directory:
        for file in directory.files:
            blocks = Blocks(directory, file, [0, 1, 4])
            written = blocks.arena.copy()
            assert blocks.write().ok
            blocks.arena[:] = 0
            assert blocks.read().ok
            assert np.array_equal(blocks.arena, written)
        assert direct_io or not directory.is_direct


def test_a_directory_says_whose_it_is_and_how_it_lies(tmp_path: Path) -> None:
    with cold_directory(tmp_path / "model", FULL, SLIDING) as directory:
        written = ColdFormat.from_json((directory.path / "format.json").read_bytes())
        assert written == ColdFormat((FULL, SLIDING), MODEL)
        names = {"lock", "format.json", FULL.file_name, SLIDING.file_name}
        assert {entry.name for entry in directory.path.iterdir()} == names
        assert all(entry.stat().st_mode & 0o777 == 0o600 for entry in directory.path.iterdir())


def test_room_is_taken_by_writing_and_given_back_by_punching(tmp_path: Path) -> None:
    with cold_directory(tmp_path / "model") as directory:
        empty = directory.physical_bytes()
        blocks = Blocks(directory, directory.files[0], list(range(FULL.capacity)))
        assert blocks.write().ok
        full = directory.physical_bytes()
        assert empty + FULL.num_bytes <= full <= empty + FULL.num_bytes + 16 * 4096
        directory.files[0].punch(5, 10)
        assert full - directory.physical_bytes() == 10 * FULL.block_bytes
        errors = blocks.errors(blocks.read())
        assert np.flatnonzero(errors.all(axis=0)).tolist() == list(range(5, 15))
        assert (errors[:, :5] == 0).all() and (errors[:, 15:] == 0).all()
        directory.files[0].punch(0, FULL.capacity)
        assert directory.physical_bytes() == empty


def test_a_hole_reaches_no_further_than_the_file(tmp_path: Path) -> None:
    with cold_directory(tmp_path / "model") as directory, pytest.raises(ValueError, match="20 blocks"):
        directory.files[0].punch(15, 6)


def test_a_hole_that_one_row_refuses_is_made_in_the_others(tmp_path: Path) -> None:
    with cold_directory(tmp_path / "model", fault=IOFault(3, "EIO")) as directory:
        blocks = Blocks(directory, directory.files[0], [7])
        assert blocks.write().num_bytes == 2 * FULL.slot_bytes  # two calls, the third is the fault
    with cold_directory(tmp_path / "model", fault=IOFault(5, "EIO")) as directory:
        blocks = Blocks(directory, directory.files[0], [7])
        assert blocks.write().ok
        with pytest.raises(OSError, match="Input/output error"):
            directory.files[0].punch(7)
        assert (blocks.errors(blocks.read())[:, 0] == 0).tolist() == [False, True, False]


def test_closing_leaves_nothing_but_the_format(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with cold_directory(path) as directory:
        Blocks(directory, directory.files[0], [1]).write()
        directory.close()
        assert sorted(entry.name for entry in path.iterdir()) == ["format.json", "lock"]


def test_leftovers_of_any_layout_are_removed_and_strangers_stay(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()
    leftovers = [FULL.file_name, "cold-other_attention.kv"]
    for name in (*leftovers, "notes.txt", "cold-notes.txt"):
        (path / name).write_bytes(os.urandom(100_000))
    (path / SLIDING.file_name).symlink_to(path / "notes.txt")
    with cold_directory(path, FULL, SLIDING) as directory:
        assert directory.physical_bytes() < 200_000 + 16 * 4096
        assert (path / "notes.txt").stat().st_size == 100_000
        assert sorted(entry.name for entry in path.iterdir()) == sorted(
            [FULL.file_name, SLIDING.file_name, "cold-notes.txt", "format.json", "lock", "notes.txt"]
        )
        assert not (path / SLIDING.file_name).is_symlink()


def test_a_later_version_s_directory_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()
    (path / "format.json").write_bytes(b'{"format": "transom-cold", "version": 3}')
    (path / FULL.file_name).write_bytes(b"precious")
    for _ in range(2):
        with pytest.raises(ConfigError, match="version 3"):
            ColdDirectory(RealFileSystem(), path, [FULL], MODEL)
    assert (path / FULL.file_name).read_bytes() == b"precious"


def test_a_start_that_fails_keeps_neither_lock_nor_descriptor(tmp_path: Path) -> None:
    def open_descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    path = tmp_path / "model"
    (path / SLIDING.file_name).mkdir(parents=True)
    before = open_descriptors()
    with pytest.raises(ConfigError, match=SLIDING.file_name):
        ColdDirectory(RealFileSystem(), path, [FULL, SLIDING], MODEL)
    assert open_descriptors() == before
    (path / SLIDING.file_name).rmdir()
    with cold_directory(path, FULL, SLIDING):
        assert open_descriptors() > before
    assert open_descriptors() == before


# ---- a file system of its own


@contextmanager
def mounted(path: Path, options: str) -> Iterator[Path]:
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs root and the right to mount a tmpfs")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_a_disk_that_fills_up_fails_the_blocks_that_have_no_room(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "size=256k") as small, cold_directory(small / "model") as directory:
        blocks = Blocks(directory, directory.files[0], list(range(FULL.capacity)))
        written = blocks.arena.copy()
        first = blocks.errors(blocks.write())
        assert set(first.ravel().tolist()) == {0, errno.ENOSPC}
        assert 0 < np.count_nonzero(first == 0) * FULL.slot_bytes <= 256 * 1024
        assert np.array_equal(blocks.arena, written)
        second = blocks.errors(blocks.read())
        assert (second[first == 0] == 0).all() and (second[first != 0] != 0).all()
        directory.files[0].punch(0, FULL.capacity)
        few = Blocks(directory, directory.files[0], [3, 4])
        assert few.write().ok and few.read().ok


def test_a_full_disk_at_the_start_is_said_in_one_line(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "size=64k") as small:
        (small / "model").mkdir()
        with (small / "filler").open("wb") as filler, pytest.raises(OSError, match="No space left"):
            while True:
                os.write(filler.fileno(), bytes(4096))
        with pytest.raises(ConfigError, match=r"^ssd_path [^\n]*No space left on device$"):
            ColdDirectory(RealFileSystem(), small / "model", [FULL], MODEL)


def test_a_read_only_disk_is_said_in_one_line(tmp_path: Path) -> None:
    with (
        mounted(tmp_path / "small", "size=64k,ro") as small,
        pytest.raises(ConfigError, match=r"^ssd_path \S+ is not writable: Read-only file system$"),
    ):
        ColdDirectory(RealFileSystem(), small / "model", [FULL], MODEL)


# ---- what outlives a run


IDENTITY = b"i" * 32


def kept_directory(path: Path, *layouts: ColdLayout, identity: bytes = IDENTITY) -> ColdDirectory:
    return ColdDirectory(RealFileSystem(), path, layouts or (FULL,), MODEL, lambda seen: (identity, seen or b"seen"))


def left_behind(path: Path) -> Blocks:
    """Two blocks, by a run that is over."""
    directory = kept_directory(path)
    blocks = Blocks(directory, directory.files[0], [3, 7])
    assert blocks.write().ok
    directory.close(keep=True)
    return blocks


def test_files_of_the_same_identity_and_layout_are_kept(tmp_path: Path) -> None:
    left = left_behind(tmp_path)
    with closing(kept_directory(tmp_path)) as directory:
        found = Blocks(directory, directory.files[0], [3, 7])
        found.checksums[:] = left.checksums
        assert found.read().ok
    assert {path.name for path in tmp_path.iterdir()} == {"format.json", "fingerprint.json", "lock"}


def test_files_with_more_places_than_are_wanted_are_kept_with_all_of_them(tmp_path: Path) -> None:
    left_behind(tmp_path)
    with closing(kept_directory(tmp_path, replace(FULL, capacity=8))) as directory:
        assert directory.files[0].capacity == FULL.capacity


@pytest.mark.parametrize(
    "layout",
    [
        replace(FULL, capacity=21),
        replace(FULL, num_rows=2),
        replace(FULL, slot_bytes=4096),
        replace(FULL, name="other"),
    ],
)
def test_files_of_another_layout_are_emptied(tmp_path: Path, layout: ColdLayout) -> None:
    left_behind(tmp_path)
    with closing(kept_directory(tmp_path, layout)) as directory:
        assert RealFileSystem().file_bytes(tmp_path / layout.file_name) == 0
        assert [file.layout for file in directory.files] == [layout]


def test_files_of_another_identity_or_of_none_are_emptied(tmp_path: Path) -> None:
    for identity in (b"j" * 32, None):
        left_behind(tmp_path)
        if identity is None:
            directory = ColdDirectory(RealFileSystem(), tmp_path, [FULL], MODEL)
        else:
            directory = kept_directory(tmp_path, identity=identity)
        assert RealFileSystem().file_bytes(tmp_path / FULL.file_name) == 0
        directory.close()


def test_a_directory_of_version_1_is_emptied(tmp_path: Path) -> None:
    left_behind(tmp_path)
    path = tmp_path / "format.json"
    path.write_text(path.read_text().replace('"version": 2', '"version": 1'))
    with closing(kept_directory(tmp_path)):
        assert RealFileSystem().file_bytes(tmp_path / FULL.file_name) == 0
        assert '"version": 2' in path.read_text()


def test_what_identity_remembers_is_given_to_it_the_next_time(tmp_path: Path) -> None:
    seen: list[bytes | None] = []

    def remember(remembered: bytes | None) -> tuple[bytes, bytes]:
        seen.append(remembered)
        return IDENTITY, b"first" if remembered is None else b"second"

    for _ in range(3):
        ColdDirectory(RealFileSystem(), tmp_path, [FULL], MODEL, remember).close()
    assert seen == [None, b"first", b"second"]
