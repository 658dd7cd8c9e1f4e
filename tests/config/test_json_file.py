"""Settings files from anybody."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from transom.config.json_file import MAX_JSON_BYTES, read_json_object
from transom.errors import ConfigError


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[]", "must hold a JSON object, holds list"),
        (b"3", "must hold a JSON object, holds int"),
        (b'{"a": 1, "a": 2}', "key 'a' appears twice"),
        (b'{"a": {"b": 1, "b": 1}}', "key 'b' appears twice"),
        (b'{"a": "\xff"}', "not UTF-8 at byte 7"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
    ],
)
def test_what_is_no_settings_file_is_refused_with_the_reason(tmp_path: Path, content: bytes, rule: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=rule) as caught:
        read_json_object(path)
    assert str(path) in str(caught.value)


def test_a_file_of_the_largest_size_is_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b'{"a": 1}'.ljust(MAX_JSON_BYTES))
    assert read_json_object(path) == {"a": 1}


def test_one_byte_more_is_refused_without_reading_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(2**30)  # sparse
    with pytest.raises(ConfigError, match="is larger than 16777216 bytes"):
        read_json_object(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json: cannot be read: No such file"):
        read_json_object(tmp_path / "config.json")


def test_a_fifo_does_not_block_the_reader(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    os.mkfifo(path)
    with pytest.raises(ConfigError, match="is not a regular file"):
        read_json_object(path)


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read|is not a regular file"):
        read_json_object(tmp_path)


@given(st.binary(max_size=60))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_bytes_give_an_object_or_a_config_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with contextlib.suppress(ConfigError):
        assert isinstance(read_json_object(path), dict)
