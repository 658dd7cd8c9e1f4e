"""Written GGUF files: read by the ecosystem's reader and by our own; whole, or not there at all."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from transom.errors import WeightsError
from transom.weights.gguf import open_gguf
from transom.weights.gguf_values import GgufValue
from transom.weights.gguf_writer import PlannedTensor, write_gguf

METADATA: dict[str, GgufValue] = {
    "general.architecture": "llama",
    "a.text": "Grüße ▁\n",
    "a.empty": "",
    "a.flag": True,
    "a.u32": 2**32 - 1,
    "a.i32": -(2**31),
    "a.u64": 2**63,
    "a.i64": -(2**31) - 1,
    "a.f32": 0.5,
    "a.f64": 0.1,
    "a.texts": ["a", "", "ü"],
    "a.types": np.array([1, -1, 6], np.int32),
    "a.scores": np.array([0.25, -3.0], np.float32),
    "a.flags": np.array([True, False]),
}


def tensor(name: str, values: NDArray[Any], dtype: str, shape: tuple[int, ...] | None = None) -> PlannedTensor:
    """A tensor that comes in two pieces."""
    half = len(values) // 2
    return PlannedTensor(name, dtype, shape or values.shape, lambda: iter((values[:half], values[half:])))


@pytest.fixture(scope="module")
def in_memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory where flushing costs nothing, if the system has one."""
    place = Path("/dev/shm")
    if not os.access(place, os.W_OK):
        yield tmp_path_factory.mktemp("written")
        return
    with tempfile.TemporaryDirectory(dir=place) as directory:
        yield Path(directory)


def some_tensors() -> list[PlannedTensor]:
    random = np.random.default_rng(0)
    return [
        tensor("norm", random.standard_normal(5, np.float32), "F32"),
        tensor("half", random.standard_normal((3, 7)).astype(np.float16), "F16"),
        tensor("brain", random.integers(0, 2**16, (4, 2), np.uint16), "BF16"),
        tensor("blocks", random.integers(0, 256, (3, 2 * 34), np.uint8), "Q8_0", (3, 64)),
    ]


def test_the_ecosystem_reads_what_was_written(tmp_path: Path) -> None:
    tensors = some_tensors()
    size = write_gguf(tmp_path / "model.gguf", METADATA, tensors)
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    assert size == (tmp_path / "model.gguf").stat().st_size
    for key, value in METADATA.items():
        found = reader.fields[key].contents()
        assert found == (value.tolist() if isinstance(value, np.ndarray) else value), key
    kinds = {key: reader.fields[key].types[0].name for key in METADATA}
    assert [kinds[f"a.{name}"] for name in ("u32", "i32", "u64", "i64", "f32", "f64")] == [
        *("UINT32", "INT32", "UINT64", "INT64", "FLOAT32", "FLOAT64")
    ]
    assert [each.name for each in reader.tensors] == [each.name for each in tensors]
    for found, planned in zip(reader.tensors, tensors, strict=True):
        assert tuple(found.shape.tolist()) == planned.shape[::-1]
        assert found.tensor_type.name == planned.dtype
        assert found.data_offset % 32 == 0
        assert found.data.tobytes() == b"".join(piece.tobytes() for piece in planned.pieces())


@settings(max_examples=30, deadline=None)
@given(
    texts=st.lists(st.text(max_size=9), max_size=5),
    numbers=st.lists(st.integers(-(2**63), 2**64 - 1), max_size=5),
    floats=st.lists(st.floats(allow_nan=False), max_size=5),
    shapes=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple), max_size=5),
)
def test_our_own_reader_gives_back_what_was_written(
    in_memory: Path,
    texts: list[str],
    numbers: list[int],
    floats: list[float],
    shapes: list[tuple[int, ...]],
) -> None:
    path = in_memory / "model.gguf"
    metadata: dict[str, GgufValue] = {f"number.{i}": value for i, value in enumerate(numbers)}
    metadata |= {f"float.{i}": value for i, value in enumerate(floats)}
    metadata |= {f"text.{i}": value for i, value in enumerate(texts)} | {"texts": texts}
    arrays = {f"t{i}": np.random.default_rng(i).standard_normal(shape, np.float32) for i, shape in enumerate(shapes)}
    write_gguf(path, metadata, [tensor(name, values, "F32") for name, values in arrays.items()], overwrite=True)
    file = open_gguf(path)
    for key, value in metadata.items():
        found = file.metadata[key]
        assert (found.tolist() if isinstance(found, np.ndarray) else found) == value
    assert file.names() == tuple(arrays)
    for name, values in arrays.items():
        np.testing.assert_array_equal(file.tensor(name), values)


def test_a_tensor_without_dimensions_is_one_element(in_memory: Path) -> None:
    path = in_memory / "scalar.gguf"
    write_gguf(
        path, {}, [PlannedTensor("scale", "F32", (), lambda: iter((np.array(2.5, np.float32),)))], overwrite=True
    )
    assert open_gguf(path).tensor("scale") == np.float32(2.5)


def test_progress_ends_with_every_byte(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    size = write_gguf(
        tmp_path / "model.gguf", {}, some_tensors(), progress=lambda done, all_: seen.append((done, all_))
    )
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert {total for _, total in seen} == {size}
    assert size - 32 < seen[-1][0] <= size


def test_a_file_that_exists_is_kept_unless_it_may_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"precious")
    with pytest.raises(WeightsError, match=r"model\.gguf: exists already"):
        write_gguf(path, {}, some_tensors())
    assert path.read_bytes() == b"precious"
    write_gguf(path, {}, some_tensors(), overwrite=True)
    assert len(open_gguf(path).names()) == 4
    assert list(tmp_path.iterdir()) == [path]


def broken() -> Iterator[NDArray[Any]]:
    yield np.zeros(1, np.float32)
    raise WeightsError("tensor 'x': row 7 holds NaN")


@pytest.mark.parametrize("exists", [False, True])
def test_an_error_on_the_way_leaves_what_was_there(tmp_path: Path, exists: bool) -> None:
    path = tmp_path / "model.gguf"
    if exists:
        path.write_bytes(b"precious")
    with pytest.raises(WeightsError, match="row 7 holds NaN"):
        write_gguf(path, {}, [*some_tensors(), PlannedTensor("x", "F32", (2,), broken)], overwrite=True)
    assert list(tmp_path.iterdir()) == ([path] if exists else [])
    assert not exists or path.read_bytes() == b"precious"


def test_what_a_killed_writer_left_is_removed_and_a_living_one_is_left_alone(tmp_path: Path) -> None:
    abandoned, living, other = (tmp_path / f".{name}.unfinished" for name in ("m.gguf.1", "m.gguf.2", "n.gguf.1"))
    for path in (abandoned, living, other):
        path.write_bytes(b"half")
    with living.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_gguf(tmp_path / "m.gguf", {}, some_tensors())
    assert {path.name for path in tmp_path.iterdir()} == {"m.gguf", living.name, other.name}


@pytest.mark.parametrize("count", [3, 5])
def test_a_tensor_of_another_size_than_planned_is_an_error(tmp_path: Path, count: int) -> None:
    planned = PlannedTensor("x", "F32", (4,), lambda: iter((np.zeros(count, np.float32),)))
    with pytest.raises(WeightsError, match=r"tensor 'x' came out .* its shape says"):
        write_gguf(tmp_path / "model.gguf", {}, [planned])
    assert not list(tmp_path.iterdir())


def a_directory(path: Path) -> None:
    path.mkdir()


def a_missing_parent(path: Path) -> None:
    path.parent.rmdir()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [(a_directory, "is a directory"), (a_missing_parent, "cannot be written: No such file or directory")],
)
def test_a_path_that_cannot_be_written_is_one_clear_error(
    tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    path = tmp_path / "sub" / "model.gguf"
    path.parent.mkdir()
    spoil(path)
    with pytest.raises(WeightsError, match=message):
        write_gguf(path, {}, some_tensors(), overwrite=True)


def test_a_full_disk_is_said_before_anything_is_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", no_space)
    planned = PlannedTensor("x", "F32", (4,), broken)
    with pytest.raises(WeightsError, match=r"model\.gguf: cannot be written: No space left on device"):
        write_gguf(tmp_path / "model.gguf", {}, [planned])
    assert not list(tmp_path.iterdir())
