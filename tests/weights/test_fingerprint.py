"""What tells two models apart, and when a file is hashed again."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from transom.errors import WeightsError
from transom.weights import fingerprint as module
from transom.weights.fingerprint import fingerprint
from transom.weights.mapped_file import MappedFile
from transom.weights.sources import open_weights

LATER = 10**10
"""Nanoseconds after which a file is settled."""


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def opened(paths: Sequence[Path]) -> list[MappedFile]:
    return [MappedFile.open(path, "weights", 1) for path in paths]


def known(*paths: Path, remembered: bytes | None = None, wait_ns: int = LATER) -> tuple[bytes, bytes]:
    return fingerprint(opened(paths), remembered, num_threads=2, now_ns=lambda: time.time_ns() + wait_ns)


def test_the_same_bytes_are_the_same_model_wherever_they_lie(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    content = os.urandom(100_000)
    first, _ = known(write(tmp_path / "one", content))
    second, _ = known(write(tmp_path / "elsewhere" / "two", content))
    assert first == second
    assert len(first) == 32


def test_a_changed_bit_a_cut_and_another_split_are_other_models(tmp_path: Path) -> None:
    content = os.urandom(100_000)
    changed = bytearray(content)
    changed[77_777] ^= 1
    variants = [[content], [bytes(changed)], [content[:-1]], [content + b"\0"], [content[:500], content[500:]]]
    variants += [variants[-1][::-1]]
    digests = set()
    for number, variant in enumerate(variants):
        paths = [write(tmp_path / f"{number}-{part}", each) for part, each in enumerate(variant)]
        digests.add(known(*paths)[0])
    assert len(digests) == len(variants)


def test_pieces_count_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PIECE_BYTES", 4096)
    content = os.urandom(4 * 4096 + 5)
    whole, _ = known(write(tmp_path / "whole", content))
    swapped, _ = known(write(tmp_path / "swapped", content[4096:8192] + content[:4096] + content[8192:]))
    assert whole != swapped


class Reads:
    """Counts files that are hashed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths: list[Path] = []
        hashed = module._digest

        def digest(file: MappedFile, num_threads: int) -> bytes:
            self.paths.append(file.path)
            return hashed(file, num_threads)

        monkeypatch.setattr(module, "_digest", digest)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


def test_an_unchanged_file_is_not_read_again(tmp_path: Path, reads: Reads) -> None:
    paths = [write(tmp_path / name, os.urandom(1000)) for name in ("a", "b")]
    first, remembered = known(*paths)
    again, remembered_again = known(*paths, remembered=remembered)
    assert (again, remembered_again) == (first, remembered)
    assert reads.paths == paths


def test_a_file_that_was_written_to_is_read_again_alone(tmp_path: Path, reads: Reads) -> None:
    paths = [write(tmp_path / name, os.urandom(1000)) for name in ("a", "b")]
    first, remembered = known(*paths)
    times = paths[1].stat()
    with paths[1].open("r+b") as file:
        file.write(b"changed")
    os.utime(paths[1], ns=(times.st_atime_ns, times.st_mtime_ns))  # as if nothing had happened
    changed, _ = known(*paths, remembered=remembered)
    assert changed != first
    assert reads.paths == [*paths, paths[1]]


def test_what_was_written_a_moment_ago_is_not_remembered(tmp_path: Path, reads: Reads) -> None:
    path = write(tmp_path / "a", b"weights")
    _, remembered = known(path, wait_ns=0)
    known(path, remembered=remembered)
    assert reads.paths == [path, path]


@pytest.mark.parametrize("rubbish", [b"", b"{", b"[]", b"null", b"[" * 100_000, b'{"version": 1}', b"\xff\xfe"])
def test_a_memory_that_makes_no_sense_is_as_good_as_none(tmp_path: Path, rubbish: bytes) -> None:
    path = write(tmp_path / "a", b"weights")
    assert known(path, remembered=rubbish) == known(path)


def test_a_flipped_bit_in_any_byte_of_the_memory_changes_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "a", b"weights")
    expected, remembered = known(path)
    for place in range(len(remembered)):
        damaged = bytearray(remembered)
        damaged[place] ^= 1 << place % 7
        assert known(path, remembered=bytes(damaged))[0] == expected, place


def test_a_file_that_changes_while_it_is_hashed_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a", os.urandom(8192))
    [file] = opened([path])
    with path.open("ab") as written:
        written.write(b"more")
    with pytest.raises(WeightsError, match="was changed while it was read"):
        fingerprint([file], None, num_threads=1)


def test_checkpoints_say_what_files_they_lie_in(tmp_path: Path) -> None:
    header: dict[str, Any] = {"t": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    encoded = json.dumps(header).encode()
    content = len(encoded).to_bytes(8, "little") + encoded + np.arange(2, dtype=np.float32).tobytes()
    write(tmp_path / "model.safetensors", content)
    assert [file.path.name for file in open_weights(tmp_path).files] == ["model.safetensors"]
