"""Published blocks as `transom cache` sees, checks and removes them: of a real cache that two tenants have used."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import typer

from tests.fakes import write_tiny_llama
from tests.harness import Harness, Stream
from transom.cli.cache import purge_all, show_stats, verify_all
from transom.cli.cold_places import ColdContent, ColdPlace, inspect, purge
from transom.cli.server_client import ServerClient
from transom.errors import ConfigError
from transom.models import Model

TOKENS = np.random.default_rng(0).integers(3, 250, 700).tolist()
COLD_FILE = "cold-full.kv"


class Server:
    """One run over the directory, with room in RAM for a third of a request."""

    def __init__(self, directory: Path, model: Model | None = None) -> None:
        if not (directory / "model").exists():
            write_tiny_llama(directory / "model")
        self.harness = Harness(
            directory / "model",
            kv_dtype="f16",
            kv_cache_ram_bytes=14 * 6144,
            max_ssd_bytes=2**21,
            ssd_path=directory / "cold" / "tiny",
            enable_prefix_cache=True,
            outlives=True,
        )

    def found(self, salt: str) -> int:
        """Of one request by whoever this salt stands for: tokens that were there."""
        cache = self.harness.cache
        stream = Stream(cache.open(TOKENS, salt=salt))
        found = stream.num_computed_tokens = cache.adopt(stream.handle)
        while (start := stream.num_computed_tokens) < len(TOKENS):
            self.harness.step([(stream, TOKENS[start : start + 64])], last_row_only=True)
        cache.close(stream.handle)
        return found

    def stop(self) -> None:
        self.harness.cache.shut_down()


@pytest.fixture
def used(tmp_path: Path) -> Path:
    server = Server(tmp_path)
    assert [server.found(salt) for salt in ("ada", "bob\0narrow", "bob")] == [0, 0, 0]
    server.stop()
    return tmp_path


def found_by_the_next(directory: Path) -> dict[str, int]:
    server = Server(directory)
    found = {salt: server.found(salt) for salt in ("ada", "bob\0narrow", "bob")}
    server.stop()
    return found


def place(directory: Path) -> ColdPlace:
    return ColdPlace("tiny", directory / "cold" / "tiny", 2**21)


def content(directory: Path, *, read_blocks: bool = True) -> ColdContent:
    return inspect(place(directory), read_blocks=read_blocks)


def test_what_was_left_is_counted_and_sound(used: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen = content(used)
    assert seen.published is not None
    assert (seen.problems, seen.foreign_files, seen.published.num_tenants) == ((), (), 2)
    assert len(seen.published.records) > 10
    verify_all([place(used)], as_json=True)
    [shown] = json.loads(capsys.readouterr().out)
    assert shown["published"] == {"blocks": len(seen.published.records), "tenants": 2, "damaged": 0}
    nobody = ServerClient("http://127.0.0.1:1")
    show_stats(nobody, None, used / "cold", None, as_json=False)
    assert f" {len(seen.published.records)} " in capsys.readouterr().out


def test_looking_changes_nothing(used: Path) -> None:
    def files() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted((used / "cold" / "tiny").iterdir())}

    before = files()
    content(used)
    assert files() == before


def test_a_running_server_is_not_looked_into(used: Path) -> None:
    server = Server(used)
    seen = content(used)
    assert (seen.in_use, seen.published, seen.problems) == (True, None, ())
    with pytest.raises(ConfigError, match="locked by another server"):
        purge(place(used), "ada")
    server.stop()


def test_one_tenant_is_purged_with_all_salts_and_the_others_keep_theirs(
    used: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(used)
    purge_all([place(used)], "bob")
    assert "given back" in capsys.readouterr().out
    after = content(used)
    assert after.published is not None and before.published is not None
    assert (after.problems, after.published.num_tenants) == ((), 1)
    assert 0 < len(after.published.records) < len(before.published.records)
    assert after.physical_bytes < before.physical_bytes
    found = found_by_the_next(used)
    assert found["ada"] > 0
    assert (found["bob\0narrow"], found["bob"]) == (0, 0)


def test_an_unknown_tenant_has_nothing_to_purge(used: Path) -> None:
    before = content(used).published
    assert purge(place(used), "nobody") == 0
    after = content(used).published
    assert before is not None and after is not None
    assert len(after.records) == len(before.records)


def test_purging_all_leaves_nothing_but_the_lock(used: Path) -> None:
    assert purge(place(used)) > 0
    assert [path.name for path in (used / "cold" / "tiny").iterdir()] == ["lock"]
    assert set(found_by_the_next(used).values()) == {0}


def test_flipped_bytes_are_found_and_said(used: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = used / "cold" / "tiny" / COLD_FILE
    seen = content(used).published
    assert seen is not None
    with path.open("r+b") as file:
        file.seek(seen.records[0].cold_index * 8192 + 77)
        [byte] = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte ^ 4]))
    with pytest.raises(typer.Exit):
        verify_all([place(used)], as_json=False)
    assert "1 of" in capsys.readouterr().err
    assert content(used, read_blocks=False).problems == ()


def test_a_damaged_database_is_said_and_keeps_tenants_together(used: Path) -> None:
    path = used / "cold" / "tiny" / "prefix.sqlite"
    path.write_bytes(b"rubbish" * 1000)
    [problem] = content(used).problems
    assert "prefix.sqlite is damaged" in problem
    with pytest.raises(ConfigError, match="tenants cannot be told apart"):
        purge(place(used), "ada")
    assert purge(place(used)) > 0


def test_damaged_records_are_counted(used: Path) -> None:
    connection = sqlite3.connect(used / "cold" / "tiny" / "prefix.sqlite")
    connection.execute("UPDATE records SET record = zeroblob(100) WHERE place = (SELECT min(place) FROM records)")
    connection.commit()
    connection.close()
    [problem] = content(used).problems
    assert "1 damaged records" in problem
