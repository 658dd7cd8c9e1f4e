"""Names, offsets and `format.json` of the cold files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transom.cache.cold_format import FORMAT_VERSION, ColdFormat, ColdLayout
from transom.errors import ConfigError

LAYOUT = ColdLayout("full_attention", num_rows=3, capacity=10, slot_bytes=5000)
HERE = Path("here")


@given(st.integers(1, 5), st.integers(1, 20), st.integers(1, 20_000))
def test_slots_fill_the_file_without_gaps_or_overlap(num_rows: int, capacity: int, slot_bytes: int) -> None:
    layout = ColdLayout("full", num_rows, capacity, slot_bytes)
    offsets = layout.offsets(np.arange(num_rows)[:, None], np.arange(capacity)).ravel()
    assert offsets.tolist() == list(range(0, layout.num_bytes, layout.stride))
    assert layout.stride % 4096 == 0 and 0 <= layout.stride - slot_bytes < 4096
    assert layout.block_bytes * capacity == layout.num_bytes


def test_consecutive_blocks_of_a_row_are_neighbours() -> None:
    assert LAYOUT.offsets(1, np.arange(2, 5)).tolist() == [12 * 8192, 13 * 8192, 14 * 8192]


def test_offsets_are_what_the_queue_takes() -> None:
    offsets = LAYOUT.offsets(np.array([0, 2]), np.array([1, 0]))
    assert offsets.dtype == np.int64 and offsets.flags.c_contiguous and offsets.tolist() == [8192, 20 * 8192]


@pytest.mark.parametrize(("row", "index"), [(-1, 0), (3, 0), (0, -1), (0, 10)])
def test_a_slot_outside_the_file_is_refused(row: int, index: int) -> None:
    with pytest.raises(ValueError, match="3 rows of 10 blocks"):
        LAYOUT.offsets(row, index)


def test_cold_files_are_known_by_their_names() -> None:
    assert ColdLayout.is_file_name(LAYOUT.file_name)
    assert not any(map(ColdLayout.is_file_name, ("lock", "format.json", "cold-notes.txt", "my-cold-full.kv")))


def test_format_json_says_what_it_was_told() -> None:
    written = ColdFormat((LAYOUT, ColdLayout("sliding_attention", 1, 2, 4096)), {"dtype": "f16", "head_dim": 64})
    assert ColdFormat.from_json(written.to_json()) == written
    ColdFormat.check(written.to_json(), HERE)


def test_no_format_or_a_damaged_one_is_no_reason_to_refuse() -> None:
    whole = ColdFormat((LAYOUT,), {}).to_json()
    ColdFormat.check(None, HERE)
    for size in range(len(whole) - 2):
        ColdFormat.check(whole[:size], HERE)
        with pytest.raises(ValueError):
            ColdFormat.from_json(whole[:size])


@pytest.mark.parametrize("version", [0, FORMAT_VERSION + 1, "1", None])
def test_another_version_is_refused_in_one_line(version: object) -> None:
    content = json.loads(ColdFormat((LAYOUT,), {}).to_json()) | {"version": version}
    with pytest.raises(ConfigError, match=r"^ssd_path here has format version [^\n]+$"):
        ColdFormat.check(json.dumps(content).encode(), HERE)


@pytest.mark.parametrize("content", [b"[]", b"3", b'{"format": "other"}', b"{}"])
def test_the_format_of_another_program_is_refused(content: bytes) -> None:
    with pytest.raises(ConfigError, match="another program"):
        ColdFormat.check(content, HERE)


JSON = st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x))


@given(JSON, JSON)
@settings(max_examples=50)
def test_a_damaged_format_is_a_value_error(files: object, model: object) -> None:
    try:
        ColdFormat.from_json(json.dumps({"files": files, "model": model}).encode())
    except ValueError:
        return
    assert files == [] and isinstance(model, dict)
