"""A served model whose KV does not fit in RAM: same answers, budgets kept, everything visible, mistakes in one line."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from tests.command_line import Ended, run
from tests.running_server import RunningServer

FACT = " The secret code of Anna is 4711-falcon."
QUESTION = " The secret code of Anna is"
PROMPT = FACT + " Pierre saw the river in 1805." * 650 + QUESTION
"""About 6,000 tokens: 12 MiB of keys and values."""
RAM_MIB, SSD_MIB = 3, 12
WINDOW_SIZE = 1000


@pytest.fixture(scope="module")
def ssd_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cold")


@pytest.fixture(scope="module")
def tiered(tmp_path_factory: pytest.TempPathFactory, ssd_path: Path) -> Iterator[RunningServer]:
    """`recall` with a fourth of that in RAM and the rest on SSD."""
    budgets = ("--kv-cache-ram-mb", str(RAM_MIB), "--max-ssd-mb", str(SSD_MIB), "--ssd-path", str(ssd_path))
    running = RunningServer.start("recall", *budgets, log=tmp_path_factory.mktemp("tiered") / "log.txt")
    yield running
    assert running.stop() == 0


def complete(server: RunningServer, **body: Any) -> dict[str, Any]:
    response = server.post("/v1/completions", {"model": "recall", "prompt": PROMPT, "max_tokens": 12, **body})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def cache_of(server: RunningServer) -> dict[str, Any]:
    shown: dict[str, Any] = server.get("/v1/models/recall/cache").json()
    return shown


@pytest.mark.slow
def test_an_answer_over_both_tiers_is_that_of_ram_alone(server: RunningServer, tiered: RunningServer) -> None:
    body = {"temperature": 0, "logprobs": 3}
    expected, answer = complete(server, **body), complete(tiered, **body)
    assert answer["choices"] == expected["choices"]
    assert answer["choices"][0]["text"].startswith(" 4711-falcon.")
    assert answer["usage"] == expected["usage"]
    assert tiered.metric("transom_kv_tier_read_bytes_total", tier="cold") > 0
    assert tiered.metric("transom_kv_tier_written_bytes_total", tier="cold") > 0
    assert tiered.metric("transom_kv_tier_checksum_failures_total") == 0


@pytest.mark.slow
def test_a_running_request_is_seen_in_both_tiers_and_leaves_nothing_behind(tiered: RunningServer) -> None:
    body = {"model": "recall", "prompt": PROMPT, "max_tokens": 1000, "stream": True, "ignore_eos": True}
    body["speculative.n_max"] = 0
    with httpx.stream("POST", f"{tiered.url}/v1/completions", json=body, timeout=120) as response:
        lines = (line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: {"))
        answer_id = json.loads(next(lines))["id"]
        while not (shown := cache_of(tiered))["requests"]:  # told twice a second
            time.sleep(0.05)
    [request] = shown["requests"]
    assert request["request_id"].startswith(answer_id)
    assert request["strategy"] == "full"
    assert request["cold_tokens"] > request["hot_tokens"] > 0
    assert request["evicted_tokens"] == 0
    hot, cold = shown["tiers"]
    assert 0 < hot["used_bytes"] <= hot["total_bytes"] <= RAM_MIB * 2**20
    assert 0 < cold["physical_bytes"] <= SSD_MIB * 2**20
    while (shown := cache_of(tiered))["requests"]:
        time.sleep(0.05)
    assert [tier["used_bytes"] for tier in shown["tiers"]] == [0, 0]


@pytest.mark.slow
def test_a_request_may_choose_to_forget_and_is_told_how_much(tiered: RunningServer) -> None:
    cache = {"strategy": "sliding_window", "window_size": WINDOW_SIZE}
    answer = complete(tiered, temperature=0, cache=cache, ignore_eos=True)
    assert not answer["choices"][0]["text"].startswith(" 4711")
    usage = answer["usage"]
    num_computed = usage["prompt_tokens"] + usage["completion_tokens"] - 1
    assert usage["prompt_tokens_details"]["evicted_tokens"] == num_computed - WINDOW_SIZE


def test_what_both_tiers_together_cannot_hold_is_refused_with_the_numbers(tiered: RunningServer) -> None:
    limit = tiered.get("/v1/models/recall").json()["meta"]["max_request_tokens"]
    assert 6_000 < limit <= (RAM_MIB + SSD_MIB) * 2**20 // 2048
    body = {"model": "recall", "prompt": [5] * limit, "max_tokens": 1}
    refused = tiered.post("/v1/completions", body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "kv_budget_exceeded")
    for number in (limit + 1, RAM_MIB, SSD_MIB):
        assert str(number) in refused.json()["error"]["message"]


def test_the_directory_is_private_locked_and_verified(tiered: RunningServer, ssd_path: Path) -> None:
    assert (ssd_path / "recall").stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in (ssd_path / "recall").iterdir())
    verified = run("cache", "verify", "--ssd-path", str(ssd_path), "--json")
    assert verified.returncode == 0
    assert verified.stderr == "transom: recall: a server uses it, so its blocks were not read\n"
    [content] = json.loads(verified.stdout)
    assert (content["model"], content["in_use"], content["problems"]) == ("recall", True, [])
    refused = run("cache", "purge", "--ssd-path", str(ssd_path))
    assert refused.returncode == 2
    assert "is locked by another server" in refused.stderr
    shown = run("cache", "stats", "--url", tiered.url)
    assert "cold" in shown.stdout


def test_settings_that_only_the_worker_can_judge_are_one_line_too(
    tiered: RunningServer, ssd_path: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    mistakes = {
        ssd_path: "is locked by another server",
        tmp_path / "file": "is a file, must be a directory",
        Path("/proc/cold"): "--ssd-path /proc/cold",
    }
    with ThreadPoolExecutor() as pool:
        endings = list(pool.map(_serve_from, mistakes))
    for ended, said in zip(endings, mistakes.values(), strict=True):
        assert ended.returncode == 1
        [line] = ended.stderr.splitlines()
        assert said in line
        assert "ready" not in ended.stdout


def _serve_from(ssd_path: Path) -> Ended:
    return run("serve", "recall", "--port", "0", "--max-ssd-mb", "64", "--ssd-path", str(ssd_path))


@pytest.mark.slow
def test_a_killed_server_leaves_nothing_that_the_next_one_trips_over(tmp_path: Path) -> None:
    arguments = ["recall", "--kv-cache-ram-mb", str(RAM_MIB), "--max-ssd-mb", str(SSD_MIB), "--ssd-path", str(tmp_path)]
    killed = RunningServer.start(*arguments, log=tmp_path / "first.txt")
    asked = threading.Thread(target=_ask_a_doomed_server, args=(killed,))
    asked.start()
    while killed.metric("transom_kv_tier_written_bytes_total", tier="cold") == 0:
        time.sleep(0.05)
    killed.process.kill()
    killed.process.wait()
    asked.join()
    again = RunningServer.start(*arguments, log=tmp_path / "second.txt")
    assert complete(again, temperature=0)["choices"][0]["text"].startswith(" 4711-falcon.")
    assert again.stop() == 0
    purged = run("cache", "purge", "recall", "--ssd-path", str(tmp_path))
    assert (purged.returncode, purged.stdout[:7]) == (0, "recall:")


def _ask_a_doomed_server(server: RunningServer) -> None:
    with pytest.raises(httpx.TransportError):
        server.post("/v1/completions", {"model": "recall", "prompt": PROMPT, "max_tokens": 1000, "ignore_eos": True})
