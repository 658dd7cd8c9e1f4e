"""Several models in less RAM than they need: loaded on demand, unloaded when idle, never above the cap."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import psutil
import pytest

from tests.running_server import RunningServer

BUNDLED = Path(__file__).parents[2] / "transom/models_builtin"
MIB = 2**20
MODEL_MIB = 208
CAP_MIB = round(1.2 * 2 * MODEL_MIB)
NAMES = ("one", "two", "three")


def entry(name: str, **settings: Any) -> dict[str, Any]:
    tiers = {"max_ram_mb": MODEL_MIB, "kv_cache_ram_mb": 32}
    return {"id": name, "path": str(BUNDLED / "tolstoy"), "load": "on_demand", "tier_config": tiers, **settings}


def start(directory: Path, server: dict[str, Any], *entries: dict[str, Any]) -> RunningServer:
    config = directory / "config.json"
    config.write_text(json.dumps({"server": server, "models": list(entries)}))
    return RunningServer.start("--config", str(config), "--threads", "1", log=directory / "log.txt")


@pytest.fixture
def crowded(tmp_path: Path) -> Iterator[RunningServer]:
    """Three models in 1.2 times the RAM of two."""
    server = start(tmp_path, {"max_total_ram_mb": CAP_MIB}, *(entry(name) for name in NAMES))
    yield server
    assert server.stop() == 0


class RamMeter(threading.Thread):
    """Measures the resident memory of all workers together, again and again."""

    def __init__(self, server: RunningServer) -> None:
        super().__init__(daemon=True)
        self._process = psutil.Process(server.process.pid)
        self._stop_asked = threading.Event()
        self.peak_mib = 0.0
        self.num_measured = 0

    def run(self) -> None:
        while not self._stop_asked.wait(0.02):
            with suppress(psutil.Error):  # a child that ends while it is looked at
                self.peak_mib = max(self.peak_mib, sum(map(_resident, self._process.children())) / MIB)
                self.num_measured += 1

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_asked.set()
        self.join()


def _resident(process: psutil.Process) -> int:
    try:
        is_worker = "transom.engine.worker" in process.cmdline()
        return int(process.memory_info().rss) if is_worker else 0
    except psutil.Error:
        return 0


def complete(server: RunningServer, model: str, **fields: Any) -> str:
    body = {"model": model, "prompt": "Prince Andrew looked at", "max_tokens": 8, "temperature": 0, **fields}
    answer = server.post("/v1/completions", body)
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["choices"][0]["text"]
    return text


def statuses(server: RunningServer) -> dict[str, str]:
    models = server.get("/v1/models").json()["data"]
    return {model["id"]: model["status"] for model in models}


def go_round(server: RunningServer, seconds: float) -> int:
    """Asks the models in turn for so long; how many answers that gave, all of them the same text."""
    deadline, texts, count = time.monotonic() + seconds, set(), 0
    with RamMeter(server) as meter:
        while time.monotonic() < deadline or count < 2 * len(NAMES):
            texts.add(complete(server, NAMES[count % len(NAMES)]))
            count += 1
    print(f"{count} requests, peak of all workers together {meter.peak_mib:.0f} MiB, cap {CAP_MIB} MiB")
    assert len(texts) == 1
    assert meter.num_measured > 10
    assert meter.peak_mib <= CAP_MIB
    assert server.metric("transom_model_loads_total") >= count / len(NAMES)
    assert list(statuses(server).values()).count("loaded") == 2
    return count


def test_three_models_take_turns_in_the_ram_of_two(crowded: RunningServer) -> None:
    assert set(statuses(crowded).values()) == {"unloaded"}
    assert go_round(crowded, 0.0) >= 6


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_three_models_take_turns_for_ten_minutes(crowded: RunningServer) -> None:
    assert go_round(crowded, 600.0) > 30


def test_requests_to_three_models_at_once_are_all_answered(crowded: RunningServer) -> None:
    texts: list[str] = []
    threads = [threading.Thread(target=lambda name=name: texts.append(complete(crowded, name))) for name in NAMES * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(texts) == len(threads)
    assert len(set(texts)) == 1


def test_an_idle_model_gives_its_ram_back_and_the_next_request_loads_it(tmp_path: Path) -> None:
    server = start(tmp_path, {"idle_unload_seconds": 0.5}, entry("idle"), entry("pinned", pinned=True))
    try:
        first = complete(server, "idle")
        complete(server, "pinned")
        deadline = time.monotonic() + 10
        while statuses(server)["idle"] != "unloaded":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert len(server.worker_pids()) == 1
        assert statuses(server)["pinned"] == "loaded"
        assert complete(server, "idle") == first
    finally:
        assert server.stop() == 0


def test_models_of_the_start_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        AssertionError, match="max_total_ram_mb is 400, but the models that are loaded at start need 416"
    ):
        start(tmp_path, {"max_total_ram_mb": 400}, *(entry(name, load="at_start") for name in NAMES[:2]))
