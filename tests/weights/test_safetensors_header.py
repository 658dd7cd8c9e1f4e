"""Hostile headers: one clear error each."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from transom.errors import WeightsError
from transom.weights.safetensors_header import MAX_HEADER_BYTES, header_length, parse_header
from transom.weights.tensor_info import TensorInfo

ENTRY: dict[str, Any] = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def parse(entries: object, data_bytes: int = 24) -> dict[str, TensorInfo]:
    return parse_header(json.dumps(entries).encode(), data_bytes, "m.safetensors")


def test_a_valid_header_is_read() -> None:
    entries = {"__metadata__": {"format": "pt"}, "b": {**ENTRY, "data_offsets": [24, 48]}, "a": ENTRY}
    assert parse(entries, 48) == {"a": TensorInfo("F32", (2, 3), 0, 24), "b": TensorInfo("F32", (2, 3), 24, 48)}


def test_spaces_behind_the_header_and_tensors_without_bytes_are_valid() -> None:
    scalar = {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}
    empty = {"dtype": "F16", "shape": [0, 5], "data_offsets": [4, 4]}
    header = json.dumps({"scalar": scalar, "empty": empty}).encode() + b"    "
    assert parse_header(header, 4, "m")["empty"].nbytes == 0


def test_an_empty_header_describes_an_empty_file() -> None:
    assert parse({}, 0) == {}


@pytest.mark.parametrize("length", [0, 1, 93, 2**31, MAX_HEADER_BYTES + 1, 2**63, 2**64 - 1])
def test_a_header_length_beyond_file_or_limit_is_refused(length: int) -> None:
    with pytest.raises(WeightsError, match=f"m: header length {length} at offset 0 is impossible"):
        header_length(length.to_bytes(8, "little"), 100, "m")


def test_the_header_may_end_with_the_file() -> None:
    assert header_length((92).to_bytes(8, "little"), 100, "m") == 92


@pytest.mark.parametrize("num_bytes", range(8))
def test_a_file_shorter_than_its_length_field_is_refused(num_bytes: int) -> None:
    with pytest.raises(WeightsError, match="too few for a safetensors file"):
        header_length(b"\0" * num_bytes, num_bytes, "m")


def test_a_header_of_the_limit_is_accepted_and_one_byte_more_refused() -> None:
    assert header_length(MAX_HEADER_BYTES.to_bytes(8, "little"), 2**40, "m") == MAX_HEADER_BYTES
    with pytest.raises(WeightsError):
        header_length((MAX_HEADER_BYTES + 1).to_bytes(8, "little"), 2**40, "m")


@pytest.mark.parametrize(
    ("header", "rule"),
    [
        (b"[]", "does not begin with an object"),
        (b" {}", "does not begin with an object"),
        (b"\xff{}", "does not begin with an object"),
        (b"{", "not valid JSON"),
        (b'{"a": \xff}', "not valid JSON"),
        (b'{"a": 1} x', "not valid JSON"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"a": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"a": {}, "a": {}}', "duplicate name 'a'"),
        (b'{"a": {"dtype": "F32", "dtype": "F16"}}', "duplicate name 'dtype'"),
        (b'{"a": {"dtype": "F32", "shape": [' + b"9" * 5000 + b'], "data_offsets": [0, 0]}}', "not valid JSON"),
        (b'{"__metadata__": []}', "__metadata__ must map strings to strings"),
        (b'{"__metadata__": {"a": 1}}', "__metadata__ must map strings to strings"),
    ],
)
def test_what_is_no_header_is_refused_with_the_reason(header: bytes, rule: str) -> None:
    with pytest.raises(WeightsError, match=rule):
        parse_header(header, 0, "m")


def test_a_header_of_endless_values_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(WeightsError, match="more than 1000000 values"):
        parse_header(b'{"a": [' + b"0," * 1_000_000 + b"0]}", 0, "m")


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"dtype": "F31"}, "dtype 'F31' is not one of"),
        ({"dtype": 3}, "dtype '3' is not one of"),
        ({"dtype": None}, "is not one of"),
        ({"shape": [2, -3]}, "shape must be"),
        ({"shape": [2, True]}, "shape must be"),
        ({"shape": [2.0, 3]}, "shape must be"),
        ({"shape": 6}, "shape must be"),
        ({"shape": [1] * 33}, "shape must be"),
        ({"shape": [2**63]}, "shape must be"),
        ({"shape": [2, 4]}, "data_offsets span 24 bytes, shape and dtype 32"),
        ({"shape": [2**32, 2**32, 2**62]}, "data_offsets span 24 bytes"),
        ({"dtype": "F16"}, "data_offsets span 24 bytes, shape and dtype 12"),
        ({"data_offsets": [24, 0]}, "must be two integers"),
        ({"data_offsets": [-24, 0]}, "must be two integers"),
        ({"data_offsets": [0]}, "must be two integers"),
        ({"data_offsets": [0, 24, 48]}, "must be two integers"),
        ({"data_offsets": [0, 24.0]}, "must be two integers"),
        ({"data_offsets": [False, 24]}, "must be two integers"),
        ({"data_offsets": [2**63, 2**63 + 24]}, "must be two integers"),
        ({"data_offsets": [8, 32]}, "leaves a gap before it"),
        ({"extra": 1}, "nothing else"),
    ],
)
def test_an_entry_that_makes_no_sense_is_named(changes: dict[str, Any], rule: str) -> None:
    with pytest.raises(WeightsError, match=rule) as caught:
        parse({"the.name": {**ENTRY, **changes}})
    assert "m.safetensors: tensor 'the.name'" in str(caught.value)


@pytest.mark.parametrize("entry", [None, 3, [], "F32", {}, {"dtype": "F32"}])
def test_an_entry_of_another_form_is_refused(entry: object) -> None:
    with pytest.raises(WeightsError, match="must have dtype, shape and data_offsets"):
        parse({"a": entry})


@pytest.mark.parametrize(
    ("second", "data_bytes", "rule"),
    [([20, 44], 44, "overlaps"), ([0, 24], 24, "overlaps"), ([28, 52], 52, "gap"), ([24, 48], 47, "end at byte 48"),
     ([24, 48], 49, "end at byte 48")],
)  # fmt: skip
def test_tensors_tile_the_data(second: list[int], data_bytes: int, rule: str) -> None:
    with pytest.raises(WeightsError, match=rule):
        parse({"a": ENTRY, "b": {**ENTRY, "data_offsets": second}}, data_bytes)


_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["F32", "BF16", "U8", ""]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
_MUTATED = st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "x"]), _VALUE, max_size=3)


@given(_MUTATED, _MUTATED, st.integers(0, 100))
@example({}, {"data_offsets": [24, 48]}, 48)
def test_mutated_entries_give_tensors_within_the_data_or_an_error(
    first: dict[str, Any], second: dict[str, Any], data_bytes: int
) -> None:
    entries = {"a": {**ENTRY, **first}, "b": {**ENTRY, "data_offsets": [24, 48], **second}}
    with contextlib.suppress(WeightsError):
        for info in parse(entries, data_bytes).values():
            assert 0 <= info.begin <= info.end <= data_bytes
