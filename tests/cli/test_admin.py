"""The operator's commands: which server they ask, and what they print of its answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from transom.cli.admin import client_of, drain_server, load_model, show_models, unload_model
from transom.cli.admin_client import AdminClient
from transom.errors import ConfigError, TransomError

LOADED: dict[str, Any] = {
    "id": "chat",
    "state": "loaded",
    "load": "at_start",
    "pinned": False,
    "num_requests": 2,
    "num_waiting": 0,
    "idle_seconds": None,
    "resident_bytes": 3 * 2**20,
    "max_ram_bytes": 4 * 2**20,
    "counted_ram_bytes": 4 * 2**20,
    "worker_pid": 17,
    "num_restarts": 1,
}
FAILED: dict[str, Any] = {"id": "code", "state": "failed", "load": "on_demand", "reason": "lm_head is missing"}


class Recorded(AdminClient):
    """Answers from a list."""

    def __init__(self) -> None:
        super().__init__(Path("nowhere"))
        self.asked: list[str] = []

    def _ask(self, method: str, path: str) -> dict[str, Any]:
        self.asked.append(f"{method} {path}")
        return {"models": [LOADED, FAILED], "num_running": 3}


def test_models_are_a_table_with_a_row_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    show_models(Recorded(), as_json=False)
    _, chat, code = capsys.readouterr().out.splitlines()
    assert chat.split() == ["chat", "loaded", "at_start", "2", "0", "-", "3", "MiB", "4", "MiB", "1", "17", "-"]
    assert code.split()[:2] == ["code", "failed"]
    assert code.endswith("lm_head is missing")


def test_programs_get_the_answer_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    show_models(Recorded(), as_json=True)
    assert json.loads(capsys.readouterr().out) == [LOADED, FAILED]


def test_commands_ask_for_what_they_say(capsys: pytest.CaptureFixture[str]) -> None:
    client = Recorded()
    load_model(client, "org/chat model")
    unload_model(client, "chat")
    drain_server(client)
    assert client.asked == ["POST /models/org/chat%20model/load", "POST /models/chat/unload", "POST /drain"]
    assert "(3 now)" in capsys.readouterr().out


def test_the_socket_is_the_registrys_unless_it_is_named(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    models = [{"id": "tiny", "path": "tiny"}]
    config.write_text(json.dumps({"server": {"admin_socket": "admin"}, "models": models}))
    with pytest.raises(TransomError, match=f"no server listens on {tmp_path / 'admin'}"):
        client_of(None, config).models()
    with pytest.raises(TransomError, match="no server listens on /other"):
        client_of(Path("/other"), config).models()
    config.write_text(json.dumps({"models": models}))
    with pytest.raises(ConfigError, match="--admin-socket PATH or --config FILE"):
        client_of(None, config)
    with pytest.raises(ConfigError, match="which server"):
        client_of(None, None)
