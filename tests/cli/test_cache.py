"""`transom cache` as it prints: from a running server, and from directories."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.cli.test_cold_places import crashed
from tests.running_server import free_port
from tests.server.running import running
from tests.server.served import ConvolvingEngine
from transom.cli.cache import purge_all, show_stats, verify_all
from transom.cli.cold_places import find_places
from transom.cli.server_client import NoServerError, ServerClient
from transom.cli.sources import server_url
from transom.errors import ConfigError, TransomError
from transom.server.settings import ServerSettings


async def stats_of(url: str, *, as_json: bool, api_key: str | None = None, model: str | None = None) -> None:
    await asyncio.to_thread(show_stats, ServerClient(url, api_key), None, None, model, as_json=as_json)


async def test_a_running_server_is_asked_for_tiers_and_requests(capsys: pytest.CaptureFixture[str]) -> None:
    async with running() as server:
        await stats_of(server.url, as_json=False)
        table = capsys.readouterr().out
        await stats_of(server.url, as_json=True, model="tiny")
        [answer] = json.loads(capsys.readouterr().out)
    for cell in ("tiny", "full", "cold", "paused", "768 B", "8 KiB", "0.2 s", "11", "cmpl-1-0-0", "192"):
        assert cell in table
    assert answer["model"] == "tiny"
    assert answer["tiers"][1]["state"] == "paused"


async def test_states_of_convolutions_have_a_row_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    async with running(ConvolvingEngine()) as server:
        await stats_of(server.url, as_json=False)
    [row] = [line.split() for line in capsys.readouterr().out.splitlines() if "conv states" in line]
    assert row[:8] == ["tiny", "-", "conv", "states", "-", "20", "B", "-"]


async def test_a_key_is_carried_and_its_absence_is_said() -> None:
    async with running(settings=ServerSettings(port=0, api_keys=("s3cret",), drain_timeout=2)) as server:
        await stats_of(server.url, as_json=True, api_key="s3cret")
        with pytest.raises(TransomError, match="401"):
            await stats_of(server.url, as_json=True)


async def test_an_unknown_model_is_said() -> None:
    async with running() as server:
        with pytest.raises(TransomError, match=r"404.*nobody"):
            await stats_of(server.url, as_json=True, model="nobody")


@pytest.mark.parametrize("url", ["127.0.0.1:1", "ftp://x", "http://", "x", "http://[", "http://x:99999", "http://a b"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="is not the address of a server"):
        ServerClient(url)


@pytest.mark.parametrize(
    ("server", "url"),
    [
        ({}, "http://127.0.0.1:9632"),
        ({"port": 8001}, "http://127.0.0.1:8001"),
        ({"host": "0.0.0.0"}, "http://127.0.0.1:9632"),
        ({"host": "::", "port": 8001}, "http://[::1]:8001"),
        ({"host": "box.lan", "port": 0}, "http://box.lan:9632"),
    ],
)
def test_a_registry_file_says_where_its_server_is(tmp_path: Path, server: dict[str, Any], url: str) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"server": server, "models": [{"id": "tiny", "path": "tiny"}]}))
    assert server_url(config) == url
    assert server_url(None) == "http://127.0.0.1:9632"


def test_nobody_there_is_an_error_of_its_own() -> None:
    with pytest.raises(NoServerError, match="no server answers at"):
        ServerClient(f"http://127.0.0.1:{free_port()}").loaded_model_ids()


def test_without_a_server_the_directories_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    crashed(tmp_path / "tiny")
    nobody = ServerClient(f"http://127.0.0.1:{free_port()}")
    show_stats(nobody, None, tmp_path, None, as_json=False)
    captured = capsys.readouterr()
    assert "no server answers" in captured.err
    assert str(tmp_path / "tiny") in captured.out
    show_stats(nobody, None, tmp_path, None, as_json=True)
    [shown] = json.loads(capsys.readouterr().out)
    assert (shown["model"], shown["directory"], shown["in_use"]) == ("tiny", str(tmp_path / "tiny"), False)


def test_without_any_place_it_is_said_how_to_name_one(capsys: pytest.CaptureFixture[str]) -> None:
    show_stats(ServerClient(f"http://127.0.0.1:{free_port()}"), None, None, None, as_json=False)
    verify_all((), as_json=False)
    purge_all(())
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all("--ssd-path DIRECTORY or --config FILE" in line for line in lines)


async def test_a_tier_in_ram_shows_no_numbers_of_a_disk(capsys: pytest.CaptureFixture[str]) -> None:
    async with running() as server:
        await stats_of(server.url, as_json=False)
    [hot] = [line.split() for line in capsys.readouterr().out.splitlines() if " hot " in line]
    assert hot[-6:] == ["-"] * 6


def test_verify_ends_with_1_and_a_line_for_each_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = crashed(tmp_path / "tiny")
    verify_all(find_places(None, tmp_path, None), as_json=False)
    assert capsys.readouterr().err == ""
    file.chmod(0o644)
    with pytest.raises(typer.Exit) as caught:
        verify_all(find_places(None, tmp_path, "tiny"), as_json=True)
    assert caught.value.exit_code == 1
    captured = capsys.readouterr()
    assert captured.err == f"transom: {file} can be used by others (mode 0644)\n"
    shown: list[dict[str, Any]] = json.loads(captured.out)
    assert len(shown[0]["problems"]) == 1


def test_purge_says_what_was_given_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = crashed(tmp_path / "tiny")
    purge_all(find_places(None, tmp_path, None))
    assert capsys.readouterr().out.startswith("tiny: ")
    assert not file.exists()
