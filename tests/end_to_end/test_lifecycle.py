"""From start to end: commands of the operator, draining, signals, workers that hang or lose their files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil
import pytest

from tests.command_line import Ended, run
from tests.running_server import RunningServer
from transom.cli.admin_client import AdminClient

BUNDLED = Path(__file__).parents[2] / "transom/models_builtin"
LONG = {"prompt": "Prince Andrew looked at", "max_tokens": 7000, "ignore_eos": True, "stream": True}
TIERS = {"max_ram_mb": 400, "kv_cache_ram_mb": 100}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    """One model at start, one on demand, and an operator's socket."""
    shutil.copytree(BUNDLED / "tolstoy", tmp_path / "model")
    models = [
        {"id": "first", "path": "model", "tier_config": TIERS},
        {"id": "second", "path": "model", "load": "on_demand", "tier_config": TIERS},
    ]
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"server": {"admin_socket": "admin"}, "models": models}))
    server = RunningServer.start("--config", str(config), "--threads", "1", log=tmp_path / "log.txt")
    yield server
    if server.process.poll() is None:
        server.process.kill()
        server.process.wait()


def command(server: RunningServer, *words: str) -> Ended:
    """A command of the operator, with the server's own registry file."""
    return run(*words, "--config", server.arguments[1])


def admin(server: RunningServer) -> AdminClient:
    return AdminClient(Path(server.arguments[1]).with_name("admin"))


def listed(server: RunningServer) -> dict[str, dict[str, Any]]:
    return {model["id"]: model for model in admin(server).models()}


def ready(server: RunningServer) -> httpx.Response:
    return server.get("/health/ready")


class Stream(threading.Thread):
    """Reads an answer that would take long; tells when it has begun, and keeps what came."""

    def __init__(self, server: RunningServer, **fields: Any) -> None:
        super().__init__(daemon=True)
        self._url = f"{server.url}/v1/completions"
        self._body = {"model": "first", **LONG, **fields}
        self.has_begun = threading.Event()
        self.lines: list[str] = []
        self.start()
        assert self.has_begun.wait(30)

    def run(self) -> None:
        with httpx.stream("POST", self._url, json=self._body, timeout=120) as response:
            for line in response.iter_lines():
                if line.startswith("data:"):
                    self.lines.append(line)
                    self.has_begun.set()

    def end(self) -> str:
        self.join(60)
        assert not self.is_alive()
        return self.lines[-1]


def test_an_operator_sees_loads_and_unloads_models_and_ends_the_server(server: RunningServer) -> None:
    before = {model["id"]: model for model in json.loads(command(server, "ps", "--json").stdout)}
    assert [before[name]["state"] for name in ("first", "second")] == ["loaded", "unloaded"]
    assert before["first"]["resident_bytes"] > 2**20
    assert "second is loaded" in command(server, "load", "second").stdout
    assert "first is unloaded" in command(server, "unload", "first").stdout
    after = listed(server)
    assert [after[name]["state"] for name in ("first", "second")] == ["unloaded", "loaded"]
    assert len(server.worker_pids()) == 1
    refused = command(server, "load", "nobody")
    assert refused.returncode == 1
    assert "does not exist" in refused.stderr
    assert command(server, "drain").returncode == 0
    assert server.process.wait(20) == 0
    gone = command(server, "ps")
    assert gone.returncode == 1
    assert "no server listens on" in gone.stderr


def test_sigterm_drains_and_the_server_tells_that_meanwhile(server: RunningServer) -> None:
    stream = Stream(server, max_tokens=1500)
    server.process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + 5
    while ready(server).status_code == 200:
        assert time.monotonic() < deadline
    assert ready(server).json()["status"] == "draining"
    assert server.get("/health/live").status_code == 200
    refused = server.post("/v1/completions", {"model": "first", "prompt": "x"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "server_draining")
    assert "retry-after" in refused.headers
    assert stream.end() == "data: [DONE]"
    assert server.process.wait(20) == 0


def test_a_second_sigterm_ends_at_once(server: RunningServer) -> None:
    stream, workers = Stream(server), server.worker_pids()
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    asked = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(20)
    assert time.monotonic() - asked < 5
    stream.join(20)
    assert "[DONE]" not in stream.lines[-1]
    assert workers
    assert not any(psutil.pid_exists(pid) for pid in workers)


def test_a_worker_that_is_stopped_is_found_within_ten_seconds_and_replaced(server: RunningServer) -> None:
    admin(server).load("second")
    stream, other = Stream(server), Stream(server, model="second", max_tokens=400)
    pid = listed(server)["first"]["worker_pid"]
    stopped = time.monotonic()
    os.kill(pid, signal.SIGSTOP)
    assert '"engine_restarting"' in stream.end()
    assert time.monotonic() - stopped < 10
    assert other.end() == "data: [DONE]"
    deadline = time.monotonic() + 20
    while listed(server)["first"]["worker_pid"] in (pid, None):
        assert time.monotonic() < deadline
    answer = server.post("/v1/completions", {"model": "first", "prompt": "x", "max_tokens": 2})
    assert answer.status_code == 200
    assert server.stop() == 0


def test_a_model_whose_file_is_gone_says_so_in_every_refusal(server: RunningServer, tmp_path: Path) -> None:
    (tmp_path / "model" / "model.safetensors").unlink()
    answer = server.post("/v1/completions", {"model": "second", "prompt": "x", "max_tokens": 2})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_loading")
    assert "model.safetensors is gone" in answer.json()["error"]["message"]
    again = server.post("/v1/completions", {"model": "second", "prompt": "x", "max_tokens": 2})
    assert "model.safetensors is gone" in again.json()["error"]["message"]
    assert 0 < float(again.headers["retry-after"]) <= 5
    shown = ready(server).json()["models"]
    assert shown["first"] == {"status": "loaded"}
    assert "model.safetensors is gone" in shown["second"]["reason"]
    assert server.post("/v1/completions", {"model": "first", "prompt": "x", "max_tokens": 2}).status_code == 200
    assert server.stop() == 0
