"""Files that were replaced, changed, added or taken away are noticed, without reading them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from transom.errors import WeightsError
from transom.weights.file_stamp import FileStamps


@pytest.fixture
def model(tmp_path: Path) -> Path:
    for name in ("config.json", "model-1.safetensors", "model-2.safetensors", "notes.txt"):
        (tmp_path / name).write_bytes(b"0123")
    return tmp_path


def test_the_same_files_are_the_same(model: Path) -> None:
    stamps = FileStamps.of(model)
    (model / "notes.txt").write_bytes(b"changed")
    stamps.check()


def test_a_file_of_the_same_size_and_time_in_its_place_is_noticed(model: Path) -> None:
    stamps = FileStamps.of(model)
    weights, copy = model / "model-1.safetensors", model / "copy"
    copy.write_bytes(b"4567")
    os.utime(copy, ns=(0, weights.stat().st_mtime_ns))
    copy.rename(weights)
    with pytest.raises(WeightsError, match=r"model-1\.safetensors was replaced since the server read the model"):
        stamps.check()


def test_a_file_that_is_written_to_is_noticed(model: Path) -> None:
    stamps = FileStamps.of(model)
    os.utime(model / "config.json", ns=(0, 1))
    with pytest.raises(WeightsError, match=r"config\.json was replaced"):
        stamps.check()


def test_a_file_that_is_gone_is_noticed(model: Path) -> None:
    stamps = FileStamps.of(model)
    (model / "model-2.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"model-2\.safetensors is gone"):
        stamps.check()


def test_a_file_that_has_come_is_noticed(model: Path) -> None:
    stamps = FileStamps.of(model)
    (model / "model-3.safetensors").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"model-3\.safetensors is new"):
        stamps.check()


def test_all_parts_of_a_split_gguf_file_belong_to_it_and_others_do_not(tmp_path: Path) -> None:
    names = ["a[1]-00001-of-00002.gguf", "a[1]-00002-of-00002.gguf", "b-00001-of-00002.gguf"]
    for name in names:
        (tmp_path / name).write_bytes(b"GGUF")
    assert set(FileStamps.of(tmp_path / names[0]).stamps) == set(names[:2])


def test_a_directory_that_is_gone_is_noticed(model: Path) -> None:
    stamps = FileStamps.of(model)
    for file in model.iterdir():
        file.unlink()
    model.rmdir()
    with pytest.raises(WeightsError, match="is gone"):
        stamps.check()
