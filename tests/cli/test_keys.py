"""`transom keys` as it prints and as it changes a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from transom.cli.app import app
from transom.config.keys_file import KeysFile, digest_of

MODEL = {"id": "tiny", "path": "models/tiny"}


def keys(*arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    result = CliRunner().invoke(app, ["keys", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_a_created_key_is_shown_once_and_only_its_digest_is_kept(tmp_path: Path) -> None:
    file = str(tmp_path / "keys.json")
    code, key, said = keys("create", "laptop", "--tenant", "alice", "--model", "tiny", "--file", file)
    assert (code, key.startswith("sk-")) == (0, True)
    assert "only once" in said
    assert key.strip() not in said
    [entry] = KeysFile.load(Path(file)).keys
    assert (entry.tenant, entry.models, entry.sha256) == ("alice", ("tiny",), digest_of(key.strip().encode()).hex())
    code, table, _ = keys("list", "--file", file)
    assert code == 0
    for cell in ("laptop", "alice", "tiny", "default", entry.sha256[:12]):
        assert cell in table
    assert json.loads(keys("list", "--file", file, "--json")[1])[0]["sha256"] == entry.sha256


def test_without_a_tenant_a_key_shares_with_nobody(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    for name in ("a", "b"):
        assert keys("create", name, "--file", str(file))[0] == 0
    assert [entry.tenant for entry in KeysFile.load(file).keys] == ["a", "b"]


def test_a_key_is_revoked_by_name_and_once(tmp_path: Path) -> None:
    file = str(tmp_path / "keys.json")
    keys("create", "laptop", "--file", file)
    assert keys("revoke", "laptop", "--file", file)[:2] == (0, "revoked laptop\n")
    code, _, said = keys("revoke", "laptop", "--file", file)
    assert (code, said) == (2, "transom: there is no key named 'laptop'\n")


def test_the_registry_file_says_where_keys_are_and_what_they_may_name(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"server": {"api_keys_file": "keys.json"}, "models": [MODEL]}))
    assert keys("create", "laptop", "--config", str(config))[0] == 0
    assert (tmp_path / "keys.json").exists()
    code, _, said = keys("create", "phone", "--config", str(config), "--model", "huge")
    assert code == 2
    assert "names 'huge', must be tiny" in said
    assert len(KeysFile.load(tmp_path / "keys.json").keys) == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["list"], "which keys file?"),
        (["list", "--file", "/nowhere/keys.json"], "there is no such keys file"),
        (["create", "a b", "--file", "keys.json"], 'name is "a b", must be'),
        (["revoke", "a", "--file", "nothing.json"], "there is no such keys file"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(
    arguments: list[str], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, said = keys(*arguments)
    assert code == 2
    assert named in said
    assert list(tmp_path.iterdir()) == []


def test_a_registry_without_a_keys_file_is_said(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"models": [MODEL]}))
    assert "server.api_keys_file is null" in keys("list", "--config", str(config))[2]
