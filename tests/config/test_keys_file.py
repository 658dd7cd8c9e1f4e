"""The file of API keys: every defect is one clear line, no key is shown, writing is whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from transom.config.keys_file import MAX_KEYS, ApiKey, KeysFile, changing, digest_of, new_key
from transom.errors import ConfigError

DIGEST = hashlib.sha256(b"sk-test").hexdigest()
KEY: dict[str, Any] = {"name": "laptop", "sha256": DIGEST, "tenant": "alice"}


def written(tmp_path: Path, content: object, *, mode: int = 0o600) -> Path:
    path = tmp_path / "keys.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    path.chmod(mode)
    return path


def load_key(tmp_path: Path, **changes: Any) -> ApiKey:
    return KeysFile.load(written(tmp_path, {"keys": [{**KEY, **changes}]})).keys[0]


def test_a_key_has_the_documented_defaults(tmp_path: Path) -> None:
    key = load_key(tmp_path)
    assert (key.tier, key.models, key.admin) == ("default", None, False)
    assert load_key(tmp_path, models=["tiny"], tier="gold", admin=True).models == ("tiny",)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "not valid JSON"),
        ("[]", "must hold a JSON object"),
        ({"key": []}, "key is not a known key; did you mean keys?"),
        ({"keys": {}}, "keys is {}, must be a list"),
        ({"keys": [{"name": "a", "tenant": "b"}]}, "keys[0].sha256 is missing"),
        ({"keys": [{**KEY, "sha256": "sk-secret"}]}, "must be the SHA-256 of a key"),
        ({"keys": [{**KEY, "sha256": DIGEST.upper()}]}, "64 of 0-9 a-f"),
        ({"keys": [{**KEY, "sha256": DIGEST[:-1]}]}, "64 of 0-9 a-f"),
        ({"keys": [{**KEY, "key": "sk-secret"}]}, "keys[0].key is not a known key"),
        ({"keys": [{**KEY, "name": "--api-key 1"}]}, "keys[0].name is"),
        ({"keys": [{**KEY, "tenant": ""}]}, "keys[0].tenant is"),
        ({"keys": [{**KEY, "tenant": "a\0b"}]}, "keys[0].tenant is"),
        ({"keys": [{**KEY, "models": "tiny"}]}, "keys[0].models is"),
        ({"keys": [{**KEY, "models": ["../x"]}]}, "keys[0].models[0] is"),
        ({"keys": [{**KEY, "admin": 1}]}, "keys[0].admin is 1, must be true or false"),
        ({"keys": [KEY, {**KEY, "sha256": "0" * 64}]}, "the key name 'laptop' is given twice"),
        ({"keys": [KEY, {**KEY, "name": "phone"}]}, f"the sha256 {DIGEST[:8]}... is given twice"),
        ('{"keys": [], "keys": []}', "appears twice"),
    ],
)
def test_every_defect_is_one_clear_line(tmp_path: Path, content: object, named: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(ConfigError) as caught:
        KeysFile.load(path)
    assert named in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert DIGEST not in str(caught.value)
    assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o602, 0o601])
def test_a_file_that_others_can_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    path = written(tmp_path, {"keys": [KEY]}, mode=mode)
    with pytest.raises(ConfigError, match=f"has mode {mode:04o}.*chmod 600"):
        KeysFile.load(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, {"keys": [KEY]})
    os.chown(path, 12345, 12345)
    with pytest.raises(ConfigError, match="belongs to user 12345"):
        KeysFile.load(path)


def test_a_missing_file_and_a_directory_are_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such keys file; transom keys create NAME makes it"):
        KeysFile.load(tmp_path / "nothing.json")
    directory = tmp_path / "directory"
    directory.mkdir(mode=0o700)
    with pytest.raises(ConfigError, match=r"cannot be read|not a regular file"):
        KeysFile.load(directory)


def test_more_keys_than_can_be_compared_in_time_are_refused(tmp_path: Path) -> None:
    keys = [{"name": f"k{i}", "tenant": "t", "sha256": f"{i:064x}"} for i in range(MAX_KEYS + 1)]
    with pytest.raises(ConfigError, match="keys"):
        KeysFile.load(written(tmp_path, {"keys": keys}))


def test_models_and_tiers_that_nobody_knows_are_named(tmp_path: Path) -> None:
    keys = KeysFile(keys=(ApiKey.model_validate({**KEY, "models": ["tiny", "huge"], "tier": "gold"}),))
    keys.check_names(["tiny", "huge"], ["gold"], tmp_path)
    with pytest.raises(ConfigError) as caught:
        keys.check_names(["tiny"], ["silver"], tmp_path)
    first, second = str(caught.value).splitlines()
    assert "keys[0].tier is 'gold', must be default or silver" in first
    assert "keys[0].models names 'huge'" in second


def test_what_is_written_is_read_again_and_private(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    file = KeysFile().with_key(ApiKey.model_validate({**KEY, "models": [], "admin": True}))
    old_umask = os.umask(0)
    try:
        file.write(path)
    finally:
        os.umask(old_umask)
    assert KeysFile.load(path) == file
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_replaced_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.mkdir()
    with pytest.raises(OSError, match=r"keys\.json"):
        KeysFile().write(path)
    assert list(tmp_path.iterdir()) == [path]


def test_names_are_added_and_removed_once() -> None:
    key = ApiKey.model_validate(KEY)
    file = KeysFile().with_key(key)
    with pytest.raises(ConfigError, match="a key named 'laptop' already"):
        file.with_key(key)
    assert file.without_key("laptop") == KeysFile()
    with pytest.raises(ConfigError, match="no key named 'phone'"):
        file.without_key("phone")


def test_changes_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"

    def add(number: int) -> None:
        key = ApiKey(name=f"k{number}", sha256=f"{number:064x}", tenant="t")
        with changing(path) as file:
            file.with_key(key).write(path)

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key.name for key in KeysFile.load(path).keys} == {f"k{number}" for number in range(8)}


def test_new_keys_are_long_and_differ() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(key.startswith("sk-") and len(key) == 46 for key in keys)
    assert digest_of(b"sk-test").hex() == DIGEST
