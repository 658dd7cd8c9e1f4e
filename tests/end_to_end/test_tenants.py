"""Two tenants at a real server: prefixes are shared within one and never beyond, and quotas outlive a kill -9."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from tests.running_server import RunningServer
from transom.cli.sources import bundled_registry
from transom.config.keys_file import ApiKey, KeysFile, digest_of

PROMPT = "Prince Andrew looked at the sky and thought of what he had seen that day. " * 30
TENANTS = {"a1": "a", "a2": "a", "b1": "b", "limited": "c", "greedy": "d", "modest": "e"}
TIERS = {"limited": "small", "greedy": "half", "modest": "half"}


def write_registry(directory: Path) -> Path:
    keys = [
        ApiKey(
            name=name,
            sha256=digest_of(name.encode()).hex(),
            tenant=tenant,
            tier=TIERS.get(name, "default"),
            admin=name == "a1",
        )
        for name, tenant in TENANTS.items()
    ]
    KeysFile(keys=tuple(keys)).write(directory / "keys.json")
    tolstoy = str(bundled_registry().parent / "tolstoy")
    config = {
        "server": {"api_keys_file": "keys.json"},
        "models": [
            {"id": "tolstoy", "path": tolstoy},
            {"id": "shared", "path": tolstoy, "tier_config": {"kv_cache_ram_mb": 4}, "load": "on_demand"},
        ],
        "quota_tiers": {"small": {"max_tokens_per_day": 60}, "half": {"max_kv_ram_share": 0.5}},
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
    body = {"model": "tolstoy", "prompt": PROMPT, "max_tokens": 2, "temperature": 0, **fields}
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


def test_s20_a_key_that_wants_all_of_the_kv_memory_takes_none_of_what_is_anothers(server: RunningServer) -> None:
    """A request takes 5 of the 25 blocks that there are, so two of one key are its half; each gets what it can."""
    fields = {"model": "shared", "prompt": "Natasha smiled. " * 20, "max_tokens": 200, "ignore_eos": True}
    done = threading.Event()

    def ask_on() -> list[httpx.Response]:
        answers = []
        while not done.is_set():
            answers.append(post(server, "greedy", **fields))
        return answers

    with ThreadPoolExecutor() as pool:
        greedy = [pool.submit(ask_on) for _ in range(5)]
        try:
            modest = [post(server, "modest", **fields) for _ in range(3)]
        finally:
            done.set()
        answers = [answer for asking in greedy for answer in asking.result()]
    assert [answer.status_code for answer in modest] == [200] * 3
    assert {answer.status_code for answer in answers} == {200, 429}
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["error"]["limit"] == "max_kv_ram_share"
    metrics = httpx.get(f"{server.url}/metrics", headers={"authorization": "Bearer a1"}, verify=False).text
    assert 'transom_num_preemptions_total{model="shared"} 0.0' in metrics
    too_much = post(server, "greedy", **{**fields, "max_tokens": 2000})
    assert (too_much.status_code, too_much.json()["error"]["code"]) == (400, "kv_budget_exceeded")


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
