"""Settings of the tiers that cannot work are one line on stderr, and the server never says that it is ready."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import Ended, run
from tests.fakes import write_tiny_llama
from tests.running_server import RunningServer

MIB = 2**20


def entry(tmp_path: Path, **settings: Any) -> dict[str, Any]:
    """`recall` with a cold tier under `tmp_path`, and what is wrong with it."""
    tiers = {"kv_cache_ram_mb": 8, "max_ssd_mb": 16, "ssd_path": str(tmp_path / "cold")}
    tiers |= settings.pop("tier_config", {})
    builtin = Path(__file__).parents[2] / "transom" / "models_builtin"
    return {"id": "model", "path": str(builtin / "recall"), "load": "at_start", "tier_config": tiers, **settings}


def serve(tmp_path: Path, model: dict[str, Any]) -> Ended:
    registry = tmp_path / "config.json"
    registry.write_text(json.dumps({"models": [model]}))
    return run("serve", "--config", str(registry), "--port", "0")


def path_is_a_file(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "file").touch()
    return entry(tmp_path, tier_config={"ssd_path": str(tmp_path / "file")})


def path_of_the_model_is_a_file(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "cold").mkdir()
    (tmp_path / "cold" / "model").touch()
    return entry(tmp_path)


def path_is_a_link(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "cold").mkdir()
    (tmp_path / "cold" / "model").symlink_to(tmp_path / "elsewhere")
    return entry(tmp_path)


def path_is_not_writable(tmp_path: Path) -> dict[str, Any]:
    """In /proc nobody may make a directory, root included."""
    return entry(tmp_path, tier_config={"ssd_path": "/proc/cold"})


def no_path(tmp_path: Path) -> dict[str, Any]:
    return entry(tmp_path, tier_config={"ssd_path": None})


def other_files_use_up_the_budget(tmp_path: Path) -> dict[str, Any]:
    directory = tmp_path / "cold" / "model"
    directory.mkdir(parents=True)
    (directory / "somebody-elses").write_bytes(os.urandom(16 * MIB))
    return entry(tmp_path)


def wide_model(tmp_path: Path, **tiers: Any) -> dict[str, Any]:
    """One of 600 layers, a block of which takes 3.5 MiB; its weights are never looked at."""
    write_tiny_llama(tmp_path / "wide")
    path = tmp_path / "wide" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_hidden_layers": 600}))
    return entry(tmp_path, path=str(path.parent), tier_config=tiers)


def ram_holds_no_block(tmp_path: Path) -> dict[str, Any]:
    return wide_model(tmp_path, kv_cache_ram_mb=2)


def ssd_holds_no_block(tmp_path: Path) -> dict[str, Any]:
    return wide_model(tmp_path, max_ssd_mb=2)


def hot_tokens_hold_no_block(tmp_path: Path) -> dict[str, Any]:
    return entry(tmp_path, tier_config={"hot_tokens": 63})


def window_is_larger_than_the_context(tmp_path: Path) -> dict[str, Any]:
    return entry(tmp_path, cache={"strategy": "sliding_window", "window_size": 32769})


def window_is_larger_than_the_lowered_context(tmp_path: Path) -> dict[str, Any]:
    return entry(tmp_path, max_position_embeddings=1000, cache={"strategy": "fifo", "window_size": 1001})


def nothing_but_first_tokens_is_kept(tmp_path: Path) -> dict[str, Any]:
    return entry(tmp_path, cache={"strategy": "keep_first", "window_size": 256, "keep_first": 256})


def strategy_is_unknown(tmp_path: Path) -> dict[str, Any]:
    return entry(tmp_path, cache={"strategy": "slidingwindow"})


MISTAKES: dict[Callable[[Path], dict[str, Any]], tuple[str, ...]] = {
    path_is_a_file: ("ssd_path", "is a file, must be a directory"),
    path_of_the_model_is_a_file: ("ssd_path", "is a file, must be a directory"),
    path_is_a_link: ("ssd_path", "is a symbolic link"),
    path_is_not_writable: ("ssd_path", "/proc/cold"),
    no_path: ("ssd_path",),
    other_files_use_up_the_budget: ("max_ssd_mb", "16"),
    ram_holds_no_block: ("kv_cache_ram_mb", "2"),
    ssd_holds_no_block: ("max_ssd_mb", "2"),
    hot_tokens_hold_no_block: ("hot_tokens", "63", "64"),
    window_is_larger_than_the_context: ("window_size", "32769", "32768"),
    window_is_larger_than_the_lowered_context: ("window_size", "1001", "1000"),
    nothing_but_first_tokens_is_kept: ("keep_first", "256"),
    strategy_is_unknown: ("strategy", "sliding_window"),
}


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_a_mistake_is_one_line_before_the_server_is_ready(
    mistake: Callable[[Path], dict[str, Any]], tmp_path: Path
) -> None:
    ended = serve(tmp_path, mistake(tmp_path))
    assert ended.returncode != 0
    [line] = ended.stderr.splitlines()
    for words in MISTAKES[mistake]:
        assert words in line
    assert "ready" not in ended.stdout


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Path]:
    """The directory of a server that runs."""
    path = tmp_path / "held"
    path.mkdir()
    arguments = ["recall", "--kv-cache-ram-mb", "8", "--max-ssd-mb", "16", "--ssd-path", str(path)]
    running = RunningServer.start(*arguments, log=tmp_path / "log.txt")
    yield path
    assert running.stop() == 0


def test_a_directory_that_another_server_uses_is_refused_in_one_line(holder: Path, tmp_path: Path) -> None:
    ended = serve(tmp_path, entry(tmp_path, id="recall", tier_config={"ssd_path": str(holder)}))
    assert ended.returncode != 0
    [line] = ended.stderr.splitlines()
    assert "is locked by another server" in line
    assert "ready" not in ended.stdout
