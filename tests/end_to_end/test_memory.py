"""Promise 2 over two tiers, measured from outside: RAM and SSD stay within their budgets while the context grows."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from tests.running_server import RunningServer

MIB = 2**20
RECALL = Path(__file__).parents[2] / "transom" / "models_builtin" / "recall"
RAM_MIB, SSD_MIB = 16, 72
MAX_RAM_MIB = 176
"""Enough for the worker, its weights and 16 MiB of keys and values; not for the 64 MiB of a full context."""
ANSWER = [4000, 4001, 4002, 4003]
QUESTION = [3990, 3991, 3992, 3993, 3994, 3995]


def prompt(num_tokens: int, seed: int = 0) -> list[int]:
    """Random tokens, at the beginning of which something is said that the last ones ask for."""
    rng = random.Random(seed)
    filler = rng.choices(range(300, 3900), k=num_tokens - 1 - len(QUESTION + ANSWER + QUESTION))
    return [0, *filler[:100], *QUESTION, *ANSWER, *filler[100:], *QUESTION]


def start(directory: Path, log: str, **limits: int) -> RunningServer:
    """`recall` by a registry file, whose cold files are in `directory` / "cold" / "recall"."""
    tiers = {"kv_cache_ram_mb": RAM_MIB, "max_ssd_mb": SSD_MIB, "ssd_path": str(directory / "cold"), **limits}
    entry = {"id": "recall", "path": str(RECALL), "load": "at_start", "tier_config": tiers}
    (directory / "config.json").write_text(json.dumps({"models": [entry]}))
    return RunningServer.start("--config", str(directory / "config.json"), log=directory / log)


def ask(server: RunningServer, tokens: list[int], **body: Any) -> str:
    body = {"model": "recall", "prompt": tokens, "max_tokens": len(ANSWER), "temperature": 0, **body}
    response = httpx.post(f"{server.url}/v1/completions", json=body, timeout=300)
    assert response.status_code == 200, response.text
    text: str = response.json()["choices"][0]["text"]
    return text


def answer_text(server: RunningServer) -> str:
    text: str = server.post("/detokenize", {"model": "recall", "tokens": ANSWER}).json()["prompt"]
    return text


def peak_rss_mib(server: RunningServer) -> float:
    """The most memory that the worker ever had, as the kernel says."""
    pid = server.get("/v1/models/recall").json()["meta"]["worker_pid"]
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def physical_bytes(directory: Path) -> int:
    """What the file system counts for the directory and what is in it."""
    try:
        return sum(path.lstat().st_blocks * 512 for path in (directory, *directory.iterdir()))
    except FileNotFoundError:  # a file came or went meanwhile
        return 0


class Watch:
    """Samples a directory's physical bytes as often as it can."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._is_over = threading.Event()
        self.num_samples = 0
        self.most = 0

    def run(self) -> None:
        while not self._is_over.is_set():
            self.most = max(self.most, physical_bytes(self._directory))
            self.num_samples += 1
            time.sleep(0.003)

    @contextmanager
    def watching(self) -> Iterator[None]:
        thread = threading.Thread(target=self.run)
        thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            thread.join()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_peak_memory_stays_flat_while_the_context_grows_sixteen_times(tmp_path: Path) -> None:
    server = start(tmp_path, "log.txt", max_ram_mb=MAX_RAM_MIB)
    watch = Watch(tmp_path / "cold" / "recall")
    peaks: list[float] = []
    with watch.watching():
        for num_tokens in (2048, 8192, 32768):
            assert ask(server, prompt(num_tokens - len(ANSWER))) == answer_text(server)
            peaks.append(peak_rss_mib(server))
    assert server.stop() == 0
    assert peaks[-1] - peaks[0] < RAM_MIB + 32
    assert peaks[-1] < MAX_RAM_MIB
    assert 45 * MIB < watch.most <= SSD_MIB * MIB  # three quarters of 64 MiB, less what is read ahead
    assert watch.num_samples > 100


def test_what_would_need_all_of_the_ram_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=f"max_ram_mb is {MAX_RAM_MIB}"):
        start(tmp_path, "log.txt", max_ram_mb=MAX_RAM_MIB, kv_cache_ram_mb=64 + RAM_MIB)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_ssd_budget_holds_under_load_after_a_restart_and_after_a_kill(tmp_path: Path) -> None:
    """Eight requests of 20 MiB each want at 8 + 24 MiB at once: they take turns, and all of them are right."""
    limits = {"kv_cache_ram_mb": 8, "max_ssd_mb": 24}
    watch = Watch(tmp_path / "cold" / "recall")
    with watch.watching():
        server = start(tmp_path, "first.txt", **limits)
        ask_eight_at_once(server, num_tokens=10_000)
        assert server.stop() == 0
        server = start(tmp_path, "second.txt", **limits)
        doomed = threading.Thread(target=ask_a_doomed_server, args=(server,))
        doomed.start()
        wait_for_cold_bytes(server)
        server.process.kill()
        server.process.wait()
        doomed.join()
        server = start(tmp_path, "third.txt", **limits)
        ask_eight_at_once(server, num_tokens=5_000)
        assert server.stop() == 0
    assert 12 * MIB < watch.most <= limits["max_ssd_mb"] * MIB


def ask_eight_at_once(server: RunningServer, num_tokens: int) -> None:
    expected = answer_text(server)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: ask(server, prompt(num_tokens, seed=number)), range(8)))
    assert answers == [expected] * 8


def ask_a_doomed_server(server: RunningServer) -> None:
    with pytest.raises(httpx.TransportError):
        ask(server, prompt(12_000), max_tokens=2000, ignore_eos=True)


def wait_for_cold_bytes(server: RunningServer) -> None:
    deadline = time.monotonic() + 60
    while server.metric("transom_kv_tier_written_bytes_total", tier="cold") == 0:
        assert time.monotonic() < deadline
        time.sleep(0.02)
