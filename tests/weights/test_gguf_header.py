"""Hostile GGUF headers: one clear error each, and no memory by their word."""

from __future__ import annotations

import random
import struct
import tracemalloc

import numpy as np
import pytest

from tests.weights.gguf_files import (
    ARRAY,
    BOOL,
    F32,
    FLOAT32,
    INT8,
    INT64,
    Q4_K,
    STRING,
    UINT8,
    UINT32,
    UINT64,
    array,
    frame,
    pair,
    tensor,
    text,
)
from transom.errors import WeightsError
from transom.weights.gguf_header import GgufHeader, parse_header
from transom.weights.gguf_values import MAX_HEADER_BYTES, Cursor
from transom.weights.tensor_info import TensorInfo

HUGE = [2**16 + 1, 2**31, 2**32, 2**40, 2**63, 2**64 - 1]


def parse(file: bytes) -> GgufHeader:
    return parse_header(Cursor(file, len(file), "m.gguf"))


def one_value(value_type: int, value: bytes) -> object:
    return parse(frame([pair("key", value_type, value)])).metadata["key"]


def refused(file: bytes, *words: str) -> None:
    with pytest.raises(WeightsError) as caught:
        parse(file)
    message = str(caught.value)
    assert message.startswith("m.gguf: ") and "\n" not in message and len(message) < 300
    for word in words:
        assert word in message


@pytest.mark.parametrize("version", [2, 3])
def test_a_valid_header_is_read(version: int) -> None:
    tensors = [
        tensor("b", [3, 2]),
        tensor("a", [512], Q4_K, 32),
        tensor("c", [], F32, 320),
        tensor("d", [0, 4], F32, 352),
    ]
    header = parse(frame([pair("x", UINT8, b"\7")], tensors, bytes(352), version=version))
    assert dict(header.metadata) == {"x": 7}
    assert header.tensors == {
        "b": TensorInfo("F32", (2, 3), 0, 24),
        "a": TensorInfo("Q4_K", (512,), 32, 320),
        "c": TensorInfo("F32", (), 320, 324),
        "d": TensorInfo("F32", (4, 0), 352, 352),
    }
    assert header.data_start % 32 == 0


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (frame(magic=b"GGML"), "begins with b'GGML' instead of b'GGUF'"),
        (frame(version=1), "GGUF version 1 is not supported; supported: 2, 3"),
        (frame(version=4), "GGUF version 4 is not supported"),
        (frame(version=0), "GGUF version 0 is not supported"),
        (frame(version=3 << 24), "big-endian"),
    ],
)
def test_other_files_and_versions_are_refused_by_name(file: bytes, words: str) -> None:
    refused(file, words)


@pytest.mark.parametrize("count", HUGE)
def test_counts_beyond_the_file_are_refused(count: int) -> None:
    refused(frame(num_tensors=count), f"{count} tensors are impossible (at most 65536): it is damaged")
    refused(frame(num_pairs=count), f"{count} metadata keys are impossible (at most 65536): it is damaged")
    for element in (STRING, ARRAY, UINT8, INT64, FLOAT32):
        refused(frame([pair("key", ARRAY, array(element, count, bytes(64)))]), "'key'")


def test_a_download_that_broke_off_in_the_header_is_said_to_be_truncated() -> None:
    """The counts of such a file are those of any model; only the file is too small for them."""
    for broken_off in (frame(num_tensors=146), frame(num_pairs=30)):
        refused(broken_off, f"in a file of {len(broken_off)} bytes: it is truncated or damaged")


@pytest.mark.parametrize("length", [100, *HUGE])
def test_lengths_beyond_the_file_are_refused(length: int) -> None:
    raw = struct.pack("<Q", length) + b"abc"
    refused(frame([raw]), "metadata key")
    refused(frame([pair("key", STRING, raw)]), "'key'", str(length))
    refused(frame([pair("key", ARRAY, array(STRING, 1, raw))]), "'key'")
    refused(frame(tensors=[raw + bytes(64)]), "tensor name")


def test_a_name_of_kilobytes_is_not_quoted_whole() -> None:
    """One damaged byte of a key's length makes a key of whatever follows."""
    long = "k" * 60_000
    files = [
        frame([pair(long, 99, b"")]),
        frame([pair(long, UINT8, b"\1")] * 2),
        frame(tensors=[tensor(long, [8], 99)]),
        frame(tensors=[tensor(long, [8], F32)]),
    ]
    for file in files:
        with pytest.raises(WeightsError, match=r"'k+'\.\.\.") as caught:
            parse(file)
        assert len(str(caught.value)) < 300


def test_every_truncation_is_refused() -> None:
    pairs = [pair("a", STRING, text("abc")), pair("b", ARRAY, array(STRING, 2, text("x") + text("yz")))]
    file = frame(pairs, [tensor("t", [8, 2], F32)], np.arange(16, dtype=np.float32).tobytes())
    parse(file)
    for length in range(len(file)):
        refused(file[:length])


def test_a_file_may_be_larger_than_a_header_may_be() -> None:
    """Only what would have to be read beyond the limit is refused."""
    endless = frame([pair("key", ARRAY, array(UINT8, 2**40, b""))])
    with pytest.raises(WeightsError, match=f"beyond the end of the first {MAX_HEADER_BYTES} bytes"):
        parse_header(Cursor(endless, 2**50, "m.gguf"))


@pytest.mark.parametrize(
    ("value_type", "raw", "expected"),
    [
        (INT8, b"\xff", -1),
        (UINT64, b"\xff" * 8, 2**64 - 1),
        (INT64, b"\xff" * 8, -1),
        (FLOAT32, struct.pack("<f", 0.1), float(np.float32(0.1))),
        (BOOL, b"\1", True),
        (STRING, text("Grüße"), "Grüße"),
    ],
)
def test_single_values_are_plain_python(value_type: int, raw: bytes, expected: object) -> None:
    value = one_value(value_type, raw)
    assert value == expected and type(value) is type(expected)


def test_arrays_are_decoded_when_asked_for() -> None:
    numbers = one_value(ARRAY, array(FLOAT32, 3, np.array([1, 2, 3], np.float32).tobytes()))
    assert isinstance(numbers, np.ndarray) and numbers.dtype == np.float32 and numbers.tolist() == [1, 2, 3]
    assert one_value(ARRAY, array(STRING, 2, text("a") + text("𝄞"))) == ["a", "𝄞"]
    flags = one_value(ARRAY, array(BOOL, 2, b"\0\1"))
    assert isinstance(flags, np.ndarray) and flags.dtype == np.bool_


def test_arrays_of_arrays_are_lists() -> None:
    inner = array(UINT8, 2, b"\1\2") + array(UINT8, 0, b"")
    nested = one_value(ARRAY, array(ARRAY, 2, inner))
    assert isinstance(nested, list) and [each.tolist() for each in nested] == [[1, 2], []]


def test_arrays_nested_too_deeply_are_refused() -> None:
    value = array(UINT8, 1, b"\0")
    for _ in range(200):
        value = array(ARRAY, 1, value)
    refused(frame([pair("key", ARRAY, value)]), "nested deeper than")


def test_too_many_arrays_in_arrays_are_refused() -> None:
    many = array(ARRAY, 5000, array(UINT8, 0, b"") * 5000)
    refused(frame([pair("key", ARRAY, many)]), "5000 arrays in an array")


def test_too_many_texts_in_all_arrays_together_are_refused() -> None:
    half = pair("a", ARRAY, array(STRING, 2**19 + 1, text("") * (2**19 + 1)))
    other = pair("b", ARRAY, array(STRING, 2**19, text("") * 2**19))
    refused(frame([half, other]), "'b'", "texts")


@pytest.mark.parametrize("value_type", [13, 2**31, 2**32 - 1])
def test_unknown_value_types_are_refused(value_type: int) -> None:
    refused(frame([pair("key", value_type, bytes(64))]), "'key'", f"value type {value_type}")
    refused(frame([pair("key", ARRAY, array(value_type, 1, bytes(64)))]), "'key'", f"value type {value_type}")


@pytest.mark.parametrize("raw", [b"\2", b"\xff"])
def test_a_byte_that_is_no_truth_value_is_refused(raw: bytes) -> None:
    refused(frame([pair("key", BOOL, raw)]), "neither 0 nor 1")
    with pytest.raises(WeightsError, match="neither 0 nor 1"):
        one_value(ARRAY, array(BOOL, 1, raw))


def test_texts_that_are_no_utf8_are_refused() -> None:
    refused(frame([pair("key", STRING, text(b"\xff"))]), "'key'", "not UTF-8")
    refused(frame(tensors=[tensor("x", [1]).replace(b"x", b"\xff")], data=bytes(32)), "tensor name", "not UTF-8")
    with pytest.raises(WeightsError, match=r"'key': text 1 is not UTF-8"):
        one_value(ARRAY, array(STRING, 2, text("a") + text(b"\xff")))


def test_empty_and_repeated_names_are_refused() -> None:
    refused(frame([pair("", UINT8, b"\0"), pair("padding", UINT8, b"\0")]), "metadata key is empty")
    refused(frame([pair("k", UINT8, b"\0")] * 2), "'k' is given twice")
    refused(frame(tensors=[tensor("t", [0])] * 2, data=bytes(32)), "'t' is given twice")
    refused(frame(tensors=[tensor("", [1, 1])], data=bytes(32)), "tensor name is empty")


@pytest.mark.parametrize("alignment", [0, 3, 48, 2**32 - 1])
def test_an_alignment_that_is_no_power_of_two_is_refused(alignment: int) -> None:
    file = frame([pair("general.alignment", UINT32, struct.pack("<I", alignment))])
    refused(file, f"general.alignment is {alignment}")
    refused(frame([pair("general.alignment", STRING, text("32"))]), "general.alignment is '32'")


@pytest.mark.parametrize("alignment", [2**21, 2**62, 2**63])
def test_an_alignment_that_no_file_has_is_refused_though_nothing_lies_beyond_it(alignment: int) -> None:
    pairs = [pair("general.alignment", UINT64, struct.pack("<Q", alignment))]
    refused(frame(pairs), f"general.alignment is {alignment}", "up to")


def test_an_alignment_that_is_long_is_not_quoted_whole() -> None:
    long = "k" * 60_000
    refused(frame([pair("general.alignment", STRING, text(long))]), "general.alignment is 'kkk")
    numbers = array(UINT32, 1000, np.arange(1000, dtype=np.uint32).tobytes())
    refused(frame([pair("general.alignment", ARRAY, numbers)]), "general.alignment is array(")


@pytest.mark.parametrize("alignment", [1, 8, 64, 4096])
def test_any_alignment_that_is_a_power_of_two_moves_the_data(alignment: int) -> None:
    pairs = [pair("general.alignment", UINT32, struct.pack("<I", alignment))]
    file = frame(pairs, [tensor("t", [1])], b"data", alignment=alignment)
    assert parse(file).data_start == len(file) - 4


@pytest.mark.parametrize("number", [4, 5, 31, 36, 99, 2**32 - 1])
def test_unknown_tensor_types_are_refused_by_tensor_and_number(number: int) -> None:
    refused(frame(tensors=[tensor("blk.0.w", [256], number)], data=bytes(256)), "'blk.0.w'", f"type number {number}")


def test_rows_that_are_not_whole_blocks_are_refused() -> None:
    refused(frame(tensors=[tensor("t", [100, 4], Q4_K)], data=bytes(4096)), "'t'", "rows of 100 elements", "Q4_K")


@pytest.mark.parametrize("num_dimensions", [5, 2**32 - 1])
def test_too_many_dimensions_are_refused(num_dimensions: int) -> None:
    raw = text("t") + struct.pack("<I", num_dimensions) + bytes(100)
    refused(frame(tensors=[raw]), "'t'", f"{num_dimensions} dimensions")


@pytest.mark.parametrize("sizes", [[2**64 - 1] * 4, [2**63, 2], [9], [1, 9], [2**32, 2**32]])
def test_sizes_beyond_the_data_are_refused(sizes: list[int]) -> None:
    refused(frame(tensors=[tensor("t", sizes)], data=bytes(32)), "'t'", "the file holds 32")


@pytest.mark.parametrize("offset", [32, 2**62, 2**64 - 32])
def test_offsets_beyond_the_data_are_refused(offset: int) -> None:
    refused(frame(tensors=[tensor("t", [8], F32, offset)], data=bytes(32)), "'t'", "truncated or damaged")


def test_an_offset_between_two_multiples_of_the_alignment_is_refused() -> None:
    refused(frame(tensors=[tensor("t", [1], F32, 4)], data=bytes(32)), "'t' begins at 4, not a multiple of 32")


def test_overlapping_tensors_are_refused() -> None:
    tensors = [tensor("a", [16]), tensor("b", [1], F32, 32)]
    refused(frame(tensors=tensors, data=bytes(64)), "'b' begins at 32 and overlaps")


def a_small_file() -> bytes:
    """Every kind of value, and three tensors."""
    words = array(STRING, 3, text("a") + text("bc") + text("ü"))
    nested = array(ARRAY, 2, array(UINT8, 2, b"\1\2") + array(STRING, 1, text("deep")))
    pairs = [
        pair("general.architecture", STRING, text("llama")),
        pair("general.alignment", UINT32, struct.pack("<I", 32)),
        pair("llama.rope.freq_base", FLOAT32, struct.pack("<f", 10000.0)),
        pair("tokenizer.ggml.tokens", ARRAY, words),
        pair("tokenizer.ggml.scores", ARRAY, array(FLOAT32, 3, bytes(12))),
        pair("flag", BOOL, b"\1"),
        pair("nested", ARRAY, nested),
        pair("big", UINT64, b"\xff" * 8),
    ]
    tensors = [tensor("a.weight", [4, 2]), tensor("b.weight", [256, 2], Q4_K, 32), tensor("c.bias", [4], F32, 320)]
    return frame(pairs, tensors, bytes(336))


def read_or_refuse(file: bytes) -> bool:
    """Reads everything that a header offers; True when all of it was valid."""
    try:
        header = parse(file)
        for key in header.metadata:
            assert header.metadata[key] is not None
        assert all(0 <= info.begin <= info.end <= len(file) for info in header.tensors.values())
    except WeightsError as error:
        assert str(error).startswith("m.gguf: ")
        return False
    return True


def mutated(file: bytes, rng: random.Random) -> bytes:
    """Flipped bits, hostile numbers, bytes that are missing, doubled or moved: one to four such changes."""
    raw = bytearray(file)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(raw))
        match rng.randrange(6):
            case 0:
                raw[place] ^= 1 << rng.randrange(8)
            case 1:
                raw[place] = rng.randrange(256)
            case 2:
                hostile = rng.choice([0, 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1, 12, 255])
                raw[place : place + 8] = struct.pack("<Q", hostile)
            case 3:
                del raw[place : place + rng.randint(1, 16)]
            case 4:
                raw[place:place] = raw[place : place + rng.randint(1, 16)]
            case _:
                del raw[place:]
        raw = raw or bytearray(b"G")
    return bytes(raw)


def check_mutations(count: int, seed: int) -> None:
    """Each is an error or a valid file, and none makes the reader take more than 64 MiB."""
    rng, file = random.Random(seed), a_small_file()
    tracemalloc.start()
    try:
        outcomes = [read_or_refuse(mutated(file, rng)) for _ in range(count)]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**26
    assert 0 < sum(outcomes) < count


def test_hundreds_of_mutated_headers_are_errors_or_valid() -> None:
    assert read_or_refuse(a_small_file())
    check_mutations(500, seed=1)


@pytest.mark.slow
def test_ten_thousand_mutated_headers_are_errors_or_valid() -> None:
    check_mutations(10_000, seed=2)
