"""The engine over two tiers: what is lost is computed again, and whoever waits for a disk costs no processor time."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes import SuccessorModel, byte_model_config, byte_request, small_engine_config
from transom.cache import CacheManager
from transom.cache.file_system import RealFileSystem
from transom.engine.engine import Engine
from transom.engine.model_runner import ModelRunner
from transom.kernels import IOFault
from transom.request import CacheOptions, CacheStrategy, RequestOutput
from transom.scheduler import Scheduler

BLOCK_BYTES = 64 * 8 * 2 * 4


class SlowClock:
    """Goes only while somebody sleeps."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def make_engine(directory: Path, fault: IOFault | None = None, num_blocks: int = 10) -> tuple[Engine, SlowClock]:
    """Room for so many blocks in RAM, four of which are the staging ring."""
    config = replace(
        small_engine_config(kv_cache_ram_bytes=num_blocks * BLOCK_BYTES),
        max_ssd_bytes=2**20,
        ssd_path=directory / "cold",
    )
    clock = SlowClock()
    cache = CacheManager(byte_model_config(), config, file_system=RealFileSystem(fault), clock=clock)
    scheduler = Scheduler(
        cache,
        eos_token_ids=(),
        max_num_seqs=8,
        max_num_batched_tokens=64,
        max_num_waiting=64,
        max_waiting_tokens=10_000,
    )
    runner = ModelRunner(SuccessorModel(), cache, ())
    engine = Engine(scheduler=scheduler, runner=runner, cache=cache, vocab_size=256, clock=clock, sleep=clock.sleep)
    return engine, clock


def tokens_of(outputs: list[RequestOutput], request_id: str) -> bytes:
    return bytes(token for output in outputs if output.request_id == request_id for token in output.token_ids)


def successors(first: int, count: int) -> bytes:
    return bytes((first + 1 + i) % 256 for i in range(count))


def step_to_the_end(engine: Engine, max_steps: int = 8000) -> list[RequestOutput]:
    outputs: list[RequestOutput] = []
    for _ in range(max_steps):
        if not engine.has_work():
            return outputs
        outputs += engine.step()
    raise AssertionError("the requests do not come to an end")


def test_lost_blocks_cost_time_and_no_token(tmp_path: Path) -> None:
    engine, _ = make_engine(tmp_path)
    engine.add(byte_request(b"a" * 900, request_id="long", max_tokens=40))
    engine.add(byte_request(b"f" * 20, request_id="short", max_tokens=40))
    outputs = [output for _ in range(25) for output in engine.step()]
    [path] = (tmp_path / "cold").glob("*.kv")
    size = path.stat().st_size
    os.truncate(path, 0)
    os.truncate(path, size)
    outputs += step_to_the_end(engine)
    assert tokens_of(outputs, "long") == successors(ord("a"), 40)
    assert tokens_of(outputs, "short") == successors(ord("f"), 40)
    assert engine.stats().scheduler.num_preemptions >= 1
    assert engine.stats().cache.tiers[1].transfers.num_checksum_failures >= 1
    engine.check_integrity()
    engine.close()


def test_whoever_waits_for_a_full_disk_sleeps_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    engine, clock = make_engine(tmp_path, IOFault(1, "ENOSPC"))
    engine.add(byte_request(b"a" * 700, max_tokens=5))
    outputs = step_to_the_end(engine)
    assert tokens_of(outputs, "r") == successors(ord("a"), 5)
    assert 30.0 <= clock.now < 31.0
    engine.close()


def test_a_broken_disk_fails_the_request_with_a_reason(tmp_path: Path) -> None:
    engine, _ = make_engine(tmp_path, IOFault(1, "EIO", persistent=True))
    engine.add(byte_request(b"a" * 700, max_tokens=5))
    last = step_to_the_end(engine)[-1]
    assert last.error is not None
    assert "SSD" in last.error
    assert engine.stats().num_failed == 1
    engine.close()


@pytest.mark.parametrize("strategy", [CacheStrategy.SLIDING_WINDOW, CacheStrategy.FULL])
def test_usage_counts_what_was_forgotten(tmp_path: Path, strategy: CacheStrategy) -> None:
    engine, _ = make_engine(tmp_path)
    request = replace(byte_request(b"a" * 500, max_tokens=5), cache=CacheOptions(strategy, 100))
    engine.add(request)
    usage = step_to_the_end(engine)[-1].usage
    assert usage is not None
    is_lossy = strategy is not CacheStrategy.FULL
    assert (usage.num_evicted_tokens, usage.is_lossy) == (404 if is_lossy else 0, is_lossy)
    engine.close()
