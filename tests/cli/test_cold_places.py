"""What `transom cache` finds in the directories of cold tiers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from transom.cache.cold_file import ColdDirectory, ColdLayout
from transom.cache.file_system import RealFileSystem
from transom.cli.cold_places import ColdPlace, find_leftovers, find_places, inspect, purge, remove, unclaimed_bytes
from transom.config.registry_config import RegistryConfig
from transom.errors import ConfigError

LAYOUT = ColdLayout("full_attention", num_rows=2, capacity=8, slot_bytes=5000)


@contextmanager
def running(directory: Path) -> Iterator[ColdDirectory]:
    """As a server keeps its directory."""
    cold = ColdDirectory(RealFileSystem(), directory, [LAYOUT], {"id": "tiny"})
    try:
        yield cold
    finally:
        cold.close()


def crashed(directory: Path) -> Path:
    """As a killed server leaves it: its cold file is still there; the path of that."""
    with running(directory):
        content = (directory / "format.json").read_bytes()
    file = directory / LAYOUT.file_name
    file.touch(mode=0o600)
    with file.open("r+b") as opened:
        opened.write(b"x" * 20_000)
        opened.truncate(LAYOUT.num_bytes)
    (directory / "format.json").write_bytes(content)
    return file


def place(directory: Path, max_bytes: int | None = None) -> ColdPlace:
    return ColdPlace("tiny", directory, max_bytes)


def test_a_directory_that_was_never_made_is_sound_and_empty(tmp_path: Path) -> None:
    content = inspect(place(tmp_path / "tiny"))
    assert (content.exists, content.physical_bytes, content.problems) == (False, 0, ())
    assert purge(place(tmp_path / "tiny")) == 0
    assert not (tmp_path / "tiny").exists()


def test_a_directory_in_use_is_sound_and_cannot_be_purged(tmp_path: Path) -> None:
    with running(tmp_path / "tiny"):
        content = inspect(place(tmp_path / "tiny", 2**20))
        assert (content.in_use, content.cold_files, content.problems) == (True, (LAYOUT.file_name,), ())
        assert content.physical_bytes > 0
        with pytest.raises(ConfigError, match="locked by another server"):
            purge(place(tmp_path / "tiny"))
    assert not inspect(place(tmp_path / "tiny")).in_use


def test_looking_does_not_lock_a_server_out(tmp_path: Path) -> None:
    crashed(tmp_path / "tiny")
    inspect(place(tmp_path / "tiny"))
    with running(tmp_path / "tiny"):
        pass


def test_what_a_killed_server_left_is_sound_and_is_purged(tmp_path: Path) -> None:
    file = crashed(tmp_path / "tiny")
    (tmp_path / "tiny" / "notes").write_text("mine")
    content = inspect(place(tmp_path / "tiny", 2**20))
    assert (content.in_use, content.cold_files, content.foreign_files) == (False, (LAYOUT.file_name,), ("notes",))
    assert content.problems == ()
    assert purge(place(tmp_path / "tiny")) >= 20_000
    assert not file.exists()
    assert sorted(path.name for path in (tmp_path / "tiny").iterdir()) == ["lock", "notes"]


def _break_size(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.truncate(LAYOUT.num_bytes - 1)


def _break_mode(file: Path) -> None:
    file.chmod(0o644)


def _break_directory_mode(file: Path) -> None:
    file.parent.chmod(0o755)


def _add_a_file(file: Path) -> None:
    (file.parent / "cold-other.kv").touch(mode=0o600)


def _lose_format(file: Path) -> None:
    (file.parent / "format.json").unlink()


def _damage_format(file: Path) -> None:
    (file.parent / "format.json").write_text('{"format": "transom-cold", "version": 1, "files": [{}]}')


def _age_format(file: Path) -> None:
    path = file.parent / "format.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 99}))


def _replace_by_a_link(file: Path) -> None:
    file.unlink()
    file.symlink_to("/etc/hostname")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_break_size, "bytes, must have"),
        (_break_mode, "can be used by others (mode 0644)"),
        (_break_directory_mode, "can be used by others (mode 0755)"),
        (_add_a_file, "cold-other.kv is not named in format.json"),
        (_lose_format, "holds cold files, but no format.json"),
        (_damage_format, "format.json is damaged"),
        (_age_format, "has format version 99"),
        (_replace_by_a_link, "is not a regular file"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, damage: Any, said: str) -> None:
    damage(crashed(tmp_path / "tiny"))
    problems = inspect(place(tmp_path / "tiny", 2**20)).problems
    assert any(said in problem for problem in problems), problems


def test_bytes_beyond_the_budget_are_a_problem_whoever_wrote_them(tmp_path: Path) -> None:
    crashed(tmp_path / "tiny")
    (tmp_path / "tiny" / "foreign").write_bytes(b"x" * 2**20)
    [problem] = inspect(place(tmp_path / "tiny", 2**20)).problems
    assert "max_ssd_mb allows 1048576" in problem


def test_a_file_in_the_directorys_place_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "tiny").touch()
    assert "is not a directory" in inspect(place(tmp_path / "tiny")).problems[0]


def test_places_come_from_the_registry_or_from_what_servers_made(tmp_path: Path) -> None:
    tiers = {"ssd_path": "cold", "max_ssd_mb": 3}
    models = [{"id": "a", "path": "a", "tier_config": tiers}, {"id": "b", "path": "b"}]
    (tmp_path / "config.json").write_text(json.dumps({"models": models}))
    expected = ColdPlace("a", tmp_path / "cold" / "a", 3 * 2**20)
    assert find_places(tmp_path / "config.json", None, None) == (expected,)
    assert find_places(tmp_path / "config.json", None, "a") == (expected,)
    with pytest.raises(ConfigError, match=r"model b is known \(models with one: a\)"):
        find_places(tmp_path / "config.json", None, "b")
    crashed(tmp_path / "cold" / "a")
    (tmp_path / "cold" / "other").mkdir()
    assert [found.model for found in find_places(None, tmp_path / "cold", None)] == ["a"]
    with pytest.raises(ConfigError, match="is not a directory"):
        find_places(None, tmp_path / "nothing", None)


def registry_of(tmp_path: Path, **tiers: Any) -> Path:
    """A registry file with one model, `kept`, and its cold tier."""
    path = tmp_path / "config.json"
    tiers = {"ssd_path": "cold", "max_ssd_mb": 1, **tiers}
    path.write_text(json.dumps({"models": [{"id": "kept", "path": "kept", "tier_config": tiers}]}))
    return path


def test_what_a_removed_model_has_left_is_found_counted_and_removed(tmp_path: Path) -> None:
    for name in ("kept", "removed"):
        crashed(tmp_path / "cold" / name)
    (tmp_path / "cold" / "not ours").mkdir()
    config = registry_of(tmp_path)
    [leftover] = find_leftovers(config)
    assert (leftover.model, leftover.max_bytes) == ("removed", None)
    num_bytes = inspect(leftover).physical_bytes
    assert unclaimed_bytes(RegistryConfig.load(config).models) == num_bytes > 20_000
    assert 20_000 <= remove(leftover) <= num_bytes
    assert sorted(path.name for path in (tmp_path / "cold").iterdir()) == ["kept", "not ours"]
    assert find_leftovers(config) == ()


def test_what_another_server_uses_is_no_leftover(tmp_path: Path) -> None:
    with running(tmp_path / "cold" / "other"):
        assert find_leftovers(registry_of(tmp_path)) == ()
    assert len(find_leftovers(registry_of(tmp_path))) == 1


def test_a_model_without_its_cold_tier_claims_nothing_of_what_it_has_left(tmp_path: Path) -> None:
    crashed(tmp_path / "cold" / "kept")
    config = registry_of(tmp_path, enable_tiering=False)
    assert find_leftovers(config) == ()
    assert unclaimed_bytes(RegistryConfig.load(config).models) > 20_000
    assert unclaimed_bytes(RegistryConfig.load(registry_of(tmp_path)).models) == 0


def test_a_directory_with_other_files_is_emptied_and_stays(tmp_path: Path) -> None:
    crashed(tmp_path / "cold" / "removed")
    (tmp_path / "cold" / "removed" / "notes").write_text("mine")
    [leftover] = find_leftovers(registry_of(tmp_path))
    remove(leftover)
    assert "notes" in {path.name for path in leftover.directory.iterdir()}
    assert len(find_leftovers(registry_of(tmp_path))) == 1
