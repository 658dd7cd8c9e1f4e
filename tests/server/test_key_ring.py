"""Whose key it is, and that a changed file is noticed without a restart, whatever is wrong with it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from transom.config.keys_file import KeysFile
from transom.errors import ConfigError
from transom.server.caller import Caller
from transom.server.key_ring import FileKeys, KeyRing


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def write(path: Path, *names: str) -> None:
    """Each key is called as it is."""
    keys = [{"name": name, "sha256": hashlib.sha256(name.encode()).hexdigest(), "tenant": "t"} for name in names]
    path.write_text(json.dumps({"keys": keys}))
    path.chmod(0o600)


def ring_of(path: Path, clock: Clock, check: Callable[[KeysFile], None] = lambda file: None) -> KeyRing:
    return KeyRing([], FileKeys(path, check, clock))


def test_s09_keys_of_any_characters_are_compared_as_bytes() -> None:
    ring = KeyRing(["schlüssel"])
    assert ring.caller("schlüssel".encode()) == Caller(name="--api-key 1")
    assert ring.caller("schlüssel".encode("latin-1")) is None
    assert ring.caller(b"") is None
    assert KeyRing([]).caller(b"") is None


def test_a_ring_is_open_only_without_keys_and_without_a_file(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    write(path)
    assert KeyRing([]).is_open
    assert not KeyRing(["k"]).is_open
    assert not ring_of(path, Clock()).is_open


def test_a_new_key_is_taken_and_a_revoked_one_refused_within_a_second(tmp_path: Path) -> None:
    path, clock = tmp_path / "keys.json", Clock()
    write(path, "old")
    ring = ring_of(path, clock)
    assert ring.caller(b"old") == Caller(name="old", tenant="t", is_admin=False)
    write(path, "new")
    clock.seconds += 0.5
    assert (ring.caller(b"old") is not None, ring.caller(b"new")) == (True, None)
    clock.seconds += 0.5
    assert (ring.caller(b"old"), ring.caller(b"new") is not None) == (None, True)


@pytest.mark.parametrize("defect", ["not json", "mode", "gone", "foreign"])
def test_a_file_that_goes_bad_changes_nothing_but_the_log(
    tmp_path: Path, defect: str, caplog: pytest.LogCaptureFixture
) -> None:
    path, clock = tmp_path / "keys.json", Clock()
    write(path, "old")

    def check(file: KeysFile) -> None:
        if any(key.name == "foreign" for key in file.keys):
            raise ConfigError("a model\nthat nobody knows")

    ring = ring_of(path, clock, check)
    match defect:
        case "not json":
            path.write_text("{")
        case "mode":
            path.chmod(0o644)
        case "gone":
            path.unlink()
        case _:
            write(path, "old", "foreign")
    for _ in range(3):
        clock.seconds += 1
        assert ring.caller(b"old") is not None
        assert ring.caller(b"foreign") is None
    [record] = caplog.records
    assert record.levelname == "ERROR"
    assert "\n" not in record.getMessage()
    write(path, "repaired")
    clock.seconds += 1
    assert ring.caller(b"repaired") is not None


def test_a_bad_file_at_the_start_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such keys file"):
        ring_of(tmp_path / "keys.json", Clock())
