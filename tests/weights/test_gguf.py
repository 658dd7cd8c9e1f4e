"""GGUF files as the `gguf` package writes them, read identically; split models; memory that is given back."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.weights.gguf_files import STRING, UINT16, UINT32, array, frame, pair, tensor, text, write_gguf
from transom.errors import WeightsError
from transom.weights.ggml_types import FILE_TYPES, GGML_TYPES
from transom.weights.gguf import find_gguf, is_gguf, open_gguf

QUANTIZED = [each.name for each in GGML_TYPES.values() if each.element is None]


def test_the_table_of_types_is_that_of_the_gguf_package() -> None:
    theirs = {int(kind): (kind.name, *gguf.GGML_QUANT_SIZES[kind]) for kind in gguf.GGMLQuantizationType}
    ours = {number: (each.name, each.block_size, each.block_bytes) for number, each in GGML_TYPES.items()}
    shared = ours.keys() & theirs.keys()
    assert len(shared) >= 30
    assert {number: ours[number] for number in shared} == {number: theirs[number] for number in shared}


def test_the_table_of_file_types_is_that_of_the_gguf_package() -> None:
    theirs = {int(kind): kind.name.removeprefix("MOSTLY_").removeprefix("ALL_") for kind in gguf.LlamaFileType}
    shared = FILE_TYPES.keys() & theirs.keys()
    assert len(shared) >= 30
    assert {number: FILE_TYPES[number] for number in shared} == {number: theirs[number] for number in shared}


keys = st.text("abcdefgh.", min_size=1, max_size=12).map(lambda key: f"k.{key}")
texts = st.text(st.characters(codec="utf-8"), max_size=20)
values = st.one_of(
    st.integers(0, 2**32 - 1),
    st.floats(width=32, allow_nan=False),
    st.booleans(),
    texts.filter(bool),
    st.lists(texts, min_size=1, max_size=30),
    st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=30),
    st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=30),
    st.lists(st.booleans(), min_size=1, max_size=9),
)
plain_arrays = st.tuples(
    st.sampled_from([np.float32, np.float16, np.float64, np.int8, np.int16, np.int32, np.int64]),
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    metadata=st.dictionaries(keys, values, max_size=8),
    shapes=st.lists(plain_arrays, max_size=6),
    blocks=st.lists(st.tuples(st.sampled_from(QUANTIZED), st.integers(1, 5), st.integers(1, 3)), max_size=4),
    seed=st.integers(0, 2**32 - 1),
)
def test_what_the_gguf_package_writes_is_read_identically(
    tmp_path: Path, metadata: dict[str, Any], shapes: list[Any], blocks: list[Any], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    tensors: dict[str, NDArray[Any]] = {
        f"plain.{i}": rng.integers(-50, 50, shape).astype(dtype) for i, (dtype, shape) in enumerate(shapes)
    }
    kinds: dict[str, gguf.GGMLQuantizationType] = {}
    for index, (type_name, rows, blocks_per_row) in enumerate(blocks):
        kind = gguf.GGMLQuantizationType[type_name]
        name, row_bytes = f"blocks.{index}", blocks_per_row * gguf.GGML_QUANT_SIZES[kind][1]
        tensors[name] = rng.integers(0, 256, (rows, row_bytes)).astype(np.uint8)
        kinds[name] = kind
    file = open_gguf(write_gguf(tmp_path / "m.gguf", metadata, tensors, quantized=kinds))

    assert set(file.metadata) == {"general.architecture", *metadata}
    for key, expected in metadata.items():
        found = file.metadata[key]
        if isinstance(expected, float):
            assert found == np.float32(expected)
        elif isinstance(expected, list) and not isinstance(expected[0], str):
            assert isinstance(found, np.ndarray)
            np.testing.assert_array_equal(found, np.asarray(expected, found.dtype))
        else:
            assert found == expected
    assert file.names() == tuple(tensors)
    for name, values in tensors.items():
        np.testing.assert_array_equal(file.tensor(name), values)
        kind = kinds.get(name)
        assert file.info(name).dtype == (
            kind.name if kind else {"f": "F", "i": "I"}[values.dtype.kind] + str(values.itemsize * 8)
        )
        file.release(name)
        np.testing.assert_array_equal(file.tensor(name), values)
    assert file.nbytes == sum(values.nbytes for values in tensors.values())


def test_shapes_of_quantised_tensors_count_elements(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((6, 64), dtype=np.float32)
    kinds = {"w": gguf.GGMLQuantizationType.Q8_0}
    file = open_gguf(write_gguf(tmp_path / "m.gguf", {}, {"w": values}, quantized=kinds))
    assert file.info("w").shape == (6, 64)
    assert file.tensor("w").shape == (6, 2 * 34) and file.tensor("w").dtype == np.uint8
    assert not file.tensor("w").flags.writeable


def test_bf16_comes_as_uint16(tmp_path: Path) -> None:
    kinds = {"w": gguf.GGMLQuantizationType.BF16}
    file = open_gguf(write_gguf(tmp_path / "m.gguf", {}, {"w": np.ones((2, 4), np.float32)}, quantized=kinds))
    assert file.info("w").dtype == "BF16" and file.tensor("w").dtype == np.uint16
    assert (file.tensor("w") == 0x3F80).all()


def test_an_unknown_tensor_is_an_error_that_names_it(tmp_path: Path) -> None:
    file = open_gguf(write_gguf(tmp_path / "m.gguf", {}, {}))
    with pytest.raises(WeightsError, match=r"m\.gguf: tensor 'w' is missing"):
        file.tensor("w")


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF\3\0\0\0" + bytes(15)])
def test_a_file_too_short_for_a_header_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(WeightsError, match=f"{len(content)} bytes are too few for a GGUF file"):
        open_gguf(tmp_path / "m.gguf")


def test_a_gguf_file_is_known_by_its_name_or_its_first_bytes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")  # opening it must not wait for a writer
    (tmp_path / "sha256-4c2d").write_bytes(b"GGUF\3\0\0\0")
    for name, content in [("short", b"GGU"), ("empty", b""), ("notes.txt", b"words"), ("damaged.GGUF", b"")]:
        (tmp_path / name).write_bytes(content)
    (tmp_path / "link").symlink_to("sha256-4c2d")
    assert {each.name for each in tmp_path.iterdir() if is_gguf(each)} == {"sha256-4c2d", "link", "damaged.GGUF"}
    assert not is_gguf(tmp_path) and not is_gguf(tmp_path / "missing")
    assert find_gguf(tmp_path / "link") == tmp_path / "link"


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.gguf")
    for name, words in [
        ("fifo.gguf", "not a regular file"),
        (".", "not a regular file"),
        ("no.gguf", "cannot be opened"),
    ]:
        with pytest.raises(WeightsError, match=words):
            open_gguf(tmp_path / name)


def write_split(directory: Path, parts: list[dict[str, bytes]], **metadata: int) -> list[Path]:
    """One file for each dict of tensors of four bytes; `metadata` replaces split.* keys of all."""
    paths = []
    total = sum(map(len, parts))
    for index, tensors in enumerate(parts):
        split = {"no": index, "count": len(parts), "tensors_count": total, **metadata}
        pairs = [pair("name", STRING, text(f"part {index}"))] if index else [pair("only.first", STRING, text("here"))]
        pairs += [
            pair("split.no", UINT16, split["no"].to_bytes(2, "little")),
            pair("split.count", UINT16, split["count"].to_bytes(2, "little")),
            pair("split.tensors.count", UINT32, split["tensors_count"].to_bytes(4, "little")),
        ]
        infos = [tensor(name, [1], 0, 32 * i) for i, name in enumerate(tensors)]
        data = b"".join(value.ljust(32, b"\0") for value in tensors.values())
        path = directory / f"m-{index + 1:05}-of-{len(parts):05}.gguf"
        path.write_bytes(frame(pairs, infos, data))
        paths.append(path)
    return paths


PARTS = [{"a": b"aaaa"}, {}, {"b": b"bbbb", "c": b"cccc"}]


@pytest.mark.parametrize("given_part", range(3))
def test_all_parts_of_a_split_model_are_found_from_any_of_them(tmp_path: Path, given_part: int) -> None:
    file = open_gguf(write_split(tmp_path, PARTS)[given_part])
    assert file.names() == ("a", "b", "c")
    assert [file.tensor(name).tobytes() for name in file.names()] == [b"aaaa", b"bbbb", b"cccc"]
    assert file.metadata["only.first"] == "here"


@pytest.mark.parametrize("missing", range(3))
def test_a_missing_part_is_one_error_that_names_it(tmp_path: Path, missing: int) -> None:
    paths = write_split(tmp_path, PARTS)
    paths[missing].unlink()
    with pytest.raises(WeightsError, match=paths[missing].name):
        open_gguf(paths[missing - 1])


def test_parts_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"'split\.no' is 0, by the file's name 1"):
        open_gguf(write_split(tmp_path, PARTS, no=0)[0])
    with pytest.raises(WeightsError, match="which must be named NAME-00001-of-00007"):
        open_gguf(write_split(tmp_path, PARTS, count=7)[0])
    with pytest.raises(WeightsError, match=r"hold 3 tensors, split\.tensors\.count is 9"):
        open_gguf(write_split(tmp_path, PARTS, tensors_count=9)[0])
    with pytest.raises(WeightsError, match=r"tensor 'a' is in m-00001-of-00002\.gguf, too"):
        open_gguf(write_split(tmp_path, [{"a": b"aaaa"}, {"a": b"aaaa"}])[0])


def test_a_part_under_another_name_is_refused(tmp_path: Path) -> None:
    moved = write_split(tmp_path, PARTS)[0].rename(tmp_path / "m.gguf")
    with pytest.raises(WeightsError, match="must be named NAME-00001-of-00003"):
        open_gguf(moved)


def test_pages_of_a_tensor_are_given_back(tmp_path: Path) -> None:
    num_values = 2**22
    path = write_gguf(tmp_path / "m.gguf", {}, {"w": np.ones(num_values, np.float32)})
    file = open_gguf(path)

    def resident_kib() -> int:
        lines = Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines()
        start = next(index for index, line in enumerate(lines) if line.endswith(str(path)))
        return next(int(line.split()[1]) for line in lines[start:] if line.startswith("Rss:"))

    assert file.tensor("w").sum() == num_values
    before = resident_kib()
    file.release("w")
    assert before >= 16 * 1024
    assert resident_kib() < 64


def test_a_vocabulary_of_a_quarter_million_tokens_is_read_in_well_under_a_second(tmp_path: Path) -> None:
    words = array(STRING, 256_000, b"".join(text(f"token{index}") for index in range(256_000)))
    (tmp_path / "m.gguf").write_bytes(frame([pair("tokenizer.ggml.tokens", 9, words)]))
    started = time.thread_time()
    tokens = open_gguf(tmp_path / "m.gguf").metadata["tokenizer.ggml.tokens"]
    assert time.thread_time() - started < 1.0  # well under a second of work; others may use the machine, too
    assert isinstance(tokens, list) and len(tokens) == 256_000 and tokens[-1] == "token255999"
