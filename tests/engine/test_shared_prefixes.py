"""Requests that share their beginnings: who fails, is preempted or is somebody else changes nothing for others."""

from __future__ import annotations

import logging
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.fakes import write_tiny_llama
from tests.golden_models import write_golden_model
from transom.cache.file_system import FileSystem, RealFileSystem
from transom.config.engine_config import EngineConfig
from transom.config.kv_size import conv_state_bytes, kv_bytes_per_token
from transom.config.model_config import ModelConfig
from transom.engine.engine import Engine
from transom.kernels import IOFault
from transom.layers.forward_batch import ForwardBatch
from transom.models import Model, build
from transom.request import FinishReason, Request, RequestOutput, SamplingParams, Usage
from transom.weights.loader import WeightLoader
from transom.weights.sources import open_weights

BLOCK, MAX_NUM_SEQS = 64, 4
TOKENS_OF_ONE = 12
"""Each sequence of a recorded run has so many tokens for itself, so that a row tells whose it is."""


class RecordingModel:
    """A model that remembers the logits of every row it was asked for, by token and position.

    Raises in every pass with the token `poison`, if there is one.
    """

    def __init__(self, model: Model, poison: int | None = None) -> None:
        self._model = model
        self._poison = poison
        self.num_computed_tokens = 0
        self.rows: dict[tuple[int, int], set[bytes]] = defaultdict(set)
        """(whose, position) -> the different logits that were computed there."""

    def forward(self, batch: ForwardBatch) -> NDArray[np.float32]:
        if self._poison in batch.token_ids:
            raise RuntimeError("poisoned")
        logits = self._model.forward(batch)
        self.num_computed_tokens += len(batch.token_ids)
        for row, index in zip(logits, batch.logit_rows, strict=True):
            whose = int(batch.token_ids[index]) // TOKENS_OF_ONE
            self.rows[whose, int(batch.positions[index])].add(row.tobytes())
        return logits

    def hidden_states(self, batch: ForwardBatch) -> NDArray[np.float32]:
        return self._model.hidden_states(batch)

    def logits(self, hidden: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._model.logits(hidden)


@dataclass
class Bench:
    """One model, and engines over it."""

    model: Model
    config: ModelConfig

    def engine(
        self,
        model: RecordingModel | None = None,
        *,
        num_blocks: int = 60,
        reuses: bool = True,
        ssd_path: Path | None = None,
        file_system: FileSystem | None = None,
        max_draft_tokens: int = 8,
    ) -> Engine:
        num_bytes = num_blocks * BLOCK * kv_bytes_per_token(self.config, "f16")
        limits = EngineConfig(
            model_path=Path("in-memory"),
            context_window=1024,
            kv_dtype="f16",
            kv_cache_ram_bytes=num_bytes + MAX_NUM_SEQS * conv_state_bytes(self.config),
            max_ram_bytes=None,
            num_threads=1,
            max_num_seqs=MAX_NUM_SEQS,
            max_num_batched_tokens=100,
            max_draft_tokens=max_draft_tokens,
            ssd_path=ssd_path,
            max_ssd_bytes=0 if ssd_path is None else 2**23,
            enable_prefix_cache=reuses,
        )
        return Engine.of(model or self.model, self.config, limits, file_system=file_system, clock=lambda: 0.0)


@dataclass
class Heard:
    token_ids: list[int] = field(default_factory=list)
    end: tuple[FinishReason | None, str | None] | None = None
    usage: Usage | None = None

    def take(self, output: RequestOutput) -> None:
        self.token_ids += output.token_ids
        if output.finish_reason is not None:
            self.end, self.usage = (output.finish_reason, output.error), output.usage


@pytest.fixture(scope="module", params=["llama", "window", "lfm2"])
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    directory = tmp_path_factory.mktemp("model")
    if request.param == "lfm2":
        write_golden_model("lfm2", directory, max_position_embeddings=1024)
    else:
        write_tiny_llama(directory, sliding_window=90 if request.param == "window" else None)
    config = ModelConfig.from_hf(directory)
    return Bench(build(config, WeightLoader(open_weights(directory))), config)


def answers(engine: Engine, requests: Sequence[Request]) -> dict[str, Heard]:
    heard = {request.request_id: Heard() for request in requests}
    for request in requests:
        engine.add(request)
    for _ in range(3000):
        for output in engine.step():
            heard[output.request_id].take(output)
        engine.check_integrity()
        if not engine.has_work():
            return heard
    raise AssertionError("the requests do not come to an end")


def words(seed: int, count: int, first: int = 3, end: int = 33) -> list[int]:
    drawn: list[int] = np.random.default_rng(seed).integers(first, end, count).tolist()
    return drawn


def sampled(max_tokens: int, seed: int = 0, **fields: object) -> SamplingParams:
    return SamplingParams(max_tokens, temperature=0.8, seed=seed, ignore_eos=True, **fields)  # type: ignore[arg-type]


SHARED = words(0, 200)
NEIGHBOURS = [
    Request(f"{n}", SHARED[: 200 - 60 * n] + words(n, 30), sampled(60, n, allowed_token_ids=range(3, 33)))
    for n in range(3)
]
POISON = 35


@pytest.mark.parametrize("at", ["prefill", "decode"])
def test_a_request_that_fails_in_the_middle_changes_no_token_of_three_that_share_its_beginning(
    bench: Bench, at: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    undisturbed = answers(bench.engine(reuses=False), NEIGHBOURS)
    engine = bench.engine(RecordingModel(bench.model, poison=POISON))
    if at == "prefill":
        failing = Request("failing", [*SHARED, *words(9, 100), POISON, 5], sampled(50))
    else:
        failing = Request("failing", SHARED, sampled(50, allowed_token_ids=(7, POISON)))
    heard = answers(engine, [failing, *NEIGHBOURS])
    reason, error = heard.pop("failing").end or (None, None)
    assert reason is FinishReason.ERROR
    assert error
    assert {name: each.token_ids for name, each in heard.items()} == {
        name: each.token_ids for name, each in undisturbed.items()
    }
    again = answers(engine, NEIGHBOURS)
    assert {name: each.token_ids for name, each in again.items()} == {
        name: each.token_ids for name, each in undisturbed.items()
    }
    assert all(each.usage and each.usage.num_cached_tokens > 0 for each in again.values())


@pytest.mark.parametrize("nth", [5, 40, 100])
def test_lost_blocks_of_a_shared_beginning_change_no_token(
    bench: Bench, nth: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    fourth = Request("fourth", SHARED + words(8, 250), sampled(40))
    undisturbed = answers(bench.engine(reuses=False), [*NEIGHBOURS, fourth])
    disk = RealFileSystem(IOFault(nth, "corrupt"))
    engine = bench.engine(num_blocks=7, ssd_path=tmp_path / "cold", file_system=disk)
    try:
        for _ in range(2):
            heard = answers(engine, [*NEIGHBOURS, fourth])
            assert {name: (each.token_ids, each.end) for name, each in heard.items()} == {
                name: (each.token_ids, each.end) for name, each in undisturbed.items()
            }
    finally:
        engine.close()


def test_logits_of_preempted_sequences_that_find_their_own_blocks_again_are_the_same_bits(bench: Bench) -> None:
    requests = [
        Request(
            f"{n}",
            words(n, 60 + 20 * n, n * TOKENS_OF_ONE + 3, (n + 1) * TOKENS_OF_ONE),
            sampled(220, n, allowed_token_ids=range(n * TOKENS_OF_ONE + 3, (n + 1) * TOKENS_OF_ONE)),
        )
        for n in range(3)
    ]
    alone, crowded = RecordingModel(bench.model), RecordingModel(bench.model)
    for request in requests:
        answers(bench.engine(alone, reuses=False, max_draft_tokens=0), [request])
    engine = bench.engine(crowded, num_blocks=7 if bench.config.sliding_window is None else 5)
    heard = answers(engine, requests)
    stats = engine.stats()
    assert stats.scheduler.num_preemptions > 0
    assert all(each.end == (FinishReason.LENGTH, None) for each in heard.values())
    assert all(each.usage and each.usage.num_cached_tokens == 0 for each in heard.values())
    expected = alone.rows
    assert all(len(rows) == 1 for rows in expected.values())
    computed = {place: rows for place, rows in crowded.rows.items() if place in expected}
    assert computed.keys() == expected.keys()
    for n, each in heard.items():
        tokens = [*requests[int(n)].prompt_token_ids, *each.token_ids]
        places = [(int(n), at) for at in range(len(requests[int(n)].prompt_token_ids) - 1, len(tokens) - 1)]
        assert all(expected[place] <= computed[place] for place in places)


@pytest.mark.usefixtures("one_thread")
def test_a_miss_and_a_hit_of_somebody_else_take_the_same_time_and_compute_the_same(bench: Bench) -> None:
    recorder = RecordingModel(bench.model)
    engine = bench.engine(recorder, num_blocks=1000)
    secret = words(1, 500)
    seconds: dict[str, list[float]] = defaultdict(list)
    computed: dict[str, set[int]] = defaultdict(set)

    def measure(name: str, prompt: list[int], salt: str) -> None:
        started, before = time.process_time(), recorder.num_computed_tokens
        engine.add(Request("r", prompt, sampled(1), cache_salt=salt))
        while engine.has_work():
            engine.step()
        seconds[name].append(time.process_time() - started)
        computed[name].add(recorder.num_computed_tokens - before)

    measure("owner", secret, "owner")
    for n in range(25):
        for name, prompt in (("miss", words(100 + n, 500)), ("foreign", secret))[:: 1 if n % 2 else -1]:
            measure(name, prompt, f"asker {n} {name}")
        measure("own", secret, "owner")
    assert computed["miss"] == computed["foreign"] == {500}
    assert max(computed["own"]) < 100
    median = {name: statistics.median(each) for name, each in seconds.items()}
    assert 0.8 < median["foreign"] / median["miss"] < 1.25
    assert median["own"] < 0.6 * median["foreign"]
