"""The operator's socket: private, taken over from the dead, never from the living."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest

from transom.errors import ConfigError
from transom.server.admin_socket import admin_listener


def test_s12_the_socket_is_its_owners_alone_and_gone_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "admin"
    with admin_listener(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    assert not path.exists()


def test_a_socket_that_a_dead_server_has_left_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "admin"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert path.exists()
    with admin_listener(path), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_the_socket_of_a_living_server_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "admin"
    with admin_listener(path):
        with pytest.raises(ConfigError, match="another server listens on"), admin_listener(path):
            pass
        assert path.exists()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "admin"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="is no socket"), admin_listener(path):
        pass
    assert path.read_text() == "mine"


@pytest.mark.parametrize("name", ["missing/admin", "x" * 200])
def test_a_place_that_cannot_be_is_one_clear_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"server\.admin_socket: cannot listen on"), admin_listener(tmp_path / name):
        pass
