"""Names of pulled models."""

from __future__ import annotations

from pathlib import Path

import pytest

from transom.errors import ConfigError
from transom.hub.model_store import ModelStore, check_name, name_from


@pytest.mark.parametrize("name", ["", "..", ".x", "A", "a/b", "a\0b", "C:\\x", "x" * 129, "ä", "a b", "-a"])
def test_s14_a_name_is_plain_or_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="small letters, digits"):
        check_name(name)
    assert ModelStore(tmp_path).find(name) is None


@pytest.mark.parametrize(
    ("text", "name"), [("Qwen3-0.6B", "qwen3-0.6b"), ("Tiny Q4_K_M!", "tiny-q4_k_m"), ("_X" * 100, "x_" * 64)]
)
def test_a_hubs_name_becomes_one_of_ours(text: str, name: str) -> None:
    assert name_from(text) == name


def test_a_store_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert ModelStore(tmp_path / "nowhere").names() == []


def test_only_directories_with_a_models_name_are_models(tmp_path: Path) -> None:
    for name in ("good", ".pulling", "Bad"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "good")
    assert ModelStore(tmp_path).names() == ["good"]
