"""Two tenants at a real server: prefixes are shared within one and never beyond, and quotas outlive a kill -9."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from tests.running_server import RunningServer
from transom.cli.sources import bundled_registry
from transom.config.keys_file import ApiKey, KeysFile, digest_of

PROMPT = "Prince Andrew looked at the sky and thought of what he had seen that day. " * 30
TENANTS = {"a1": "a", "a2": "a", "b1": "b", "limited": "c"}


def write_registry(directory: Path) -> Path:
    keys = [
        ApiKey(
            name=name,
            sha256=digest_of(name.encode()).hex(),
            tenant=tenant,
            tier="small" if name == "limited" else "default",
            admin=name == "a1",
        )
        for name, tenant in TENANTS.items()
    ]
    KeysFile(keys=tuple(keys)).write(directory / "keys.json")
    config = {
        "server": {"api_keys_file": "keys.json"},
        "models": [{"id": "tolstoy", "path": str(bundled_registry().parent / "tolstoy")}],
        "quota_tiers": {"small": {"max_tokens_per_day": 60}},
    }
    (directory / "config.json").write_text(json.dumps(config))
    return directory / "config.json"


def start(config: Path) -> RunningServer:
    return RunningServer.start("--config", str(config), "--threads", "1", log=config.parent / "log.txt")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    running = start(write_registry(tmp_path_factory.mktemp("tenants")))
    yield running
    assert running.stop() == 0


def post(server: RunningServer, key: str, **fields: Any) -> httpx.Response:
    body = {"prompt": PROMPT, "max_tokens": 2, "temperature": 0, **fields}
    return httpx.post(
        f"{server.url}/v1/completions", json=body, headers={"authorization": f"Bearer {key}"}, timeout=60, verify=False
    )


def num_cached(server: RunningServer, key: str, **fields: Any) -> int:
    answer = post(server, key, **fields)
    assert answer.status_code == 200
    return int(answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"])


def test_s16_the_same_prompt_is_shared_within_a_tenant_and_never_beyond(server: RunningServer) -> None:
    assert num_cached(server, "a1") == 0
    assert num_cached(server, "b1") == 0
    assert num_cached(server, "a2") > 200
    assert num_cached(server, "b1") > 200


def test_a_request_narrows_the_sharing_and_cannot_widen_it(server: RunningServer) -> None:
    num_cached(server, "a1")
    for fields in ({"prompt_cache_key": "project"}, {"cache_salt": "project"}):
        assert num_cached(server, "a1", **fields) == 0
        assert num_cached(server, "b1", **fields) == 0
        assert num_cached(server, "a2", **fields) > 200
    assert num_cached(server, "b1", cache_salt="a") == 0
    assert num_cached(server, "a1", cache_prompt=False) == 0


def test_s20_a_quota_outlives_a_server_that_is_killed(tmp_path: Path) -> None:
    config = write_registry(tmp_path)
    server = start(config)
    try:
        assert post(server, "limited", prompt="Natasha smiled", max_tokens=40).status_code == 200
        left = httpx.get(f"{server.url}/v1/models", headers={"authorization": "Bearer limited"}).headers
    finally:
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait(20)
    again = start(config)
    try:
        answer = post(again, "limited", prompt="Natasha smiled", max_tokens=40)
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "insufficient_quota")
        assert answer.headers["x-should-retry"] == "false"
        assert answer.headers["x-ratelimit-remaining-tokens"] == left["x-ratelimit-remaining-tokens"]
        assert int(left["x-ratelimit-remaining-tokens"]) < 20
    finally:
        assert again.stop() == 0
