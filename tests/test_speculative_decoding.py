"""Promise 3 for guessed tokens: with and without them every request hears the same, to the last bit of a logprob."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from tests.fakes import write_tiny_llama
from tests.golden_models import write_golden_model
from transom.config.engine_config import EngineConfig
from transom.config.kv_size import conv_state_bytes, kv_bytes_per_token
from transom.config.model_config import ModelConfig
from transom.engine.engine import Engine
from transom.models import Model, build
from transom.request import (
    CacheOptions,
    CacheStrategy,
    FinishReason,
    Request,
    SamplingParams,
    TokenLogprobs,
)
from transom.weights.loader import WeightLoader
from transom.weights.sources import open_weights

MAX_NUM_SEQS = 4
BLOCK = 64
SLOW = pytest.mark.slow
MODELS = [
    "llama f32",
    "window f16",
    "lfm2 f32",
    "qwen3_moe f32",
    *(pytest.param(name, marks=SLOW) for name in ("llama q8_0", "gemma2 f32", "gemma3_text f16")),
]

SAMPLINGS = [
    SamplingParams(40, temperature=0.0),
    SamplingParams(70, temperature=0.0, logprobs=3, ignore_eos=True),
    SamplingParams(50, temperature=0.7, seed=5, top_p=0.9, logprobs=0),
    SamplingParams(50, temperature=0.4, seed=6, top_k=5, min_p=0.05, min_tokens=30, stop_token_ids=(3, 9)),
    SamplingParams(50, temperature=0.0, repetition_penalty=1.05, presence_penalty=0.2, frequency_penalty=0.05),
    SamplingParams(50, temperature=0.2, seed=7, logit_bias={4: 3.0, 7: 2.5}, prompt_logprobs=1),
    SamplingParams(70, temperature=0.0, allowed_token_ids=(4, 5, 6), logprobs=2),
]
FULL = (None,)
LOSSY = (
    CacheOptions(CacheStrategy.SLIDING_WINDOW, window_size=50),
    CacheOptions(CacheStrategy.KEEP_FIRST, window_size=60, keep_first=20),
    CacheOptions(CacheStrategy.FIFO, window_size=128),
)


@dataclass
class Heard:
    """All that a caller hears of one request, but for how it was cut into outputs."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs | None] = field(default_factory=list)
    end: tuple[FinishReason | None, int | None, str | None] | None = None


@dataclass
class Bench:
    """One model and engines over it."""

    model: Model
    config: ModelConfig
    kv_dtype: str

    def engine(self, max_draft_tokens: int, *, num_blocks: int = 60, ssd_path: Path | None = None) -> Engine:
        """Room for so many blocks. Its clock stands still, so that guesses seem to cost nothing and are made often."""
        num_bytes = num_blocks * BLOCK * kv_bytes_per_token(self.config, self.kv_dtype)
        limits = EngineConfig(
            model_path=Path("in-memory"),
            context_window=1024,
            kv_dtype=self.kv_dtype,
            kv_cache_ram_bytes=num_bytes + MAX_NUM_SEQS * conv_state_bytes(self.config),
            max_ram_bytes=None,
            num_threads=2,
            max_num_seqs=MAX_NUM_SEQS,
            max_num_batched_tokens=100,
            max_draft_tokens=max_draft_tokens,
            ssd_path=ssd_path,
            max_ssd_bytes=0 if ssd_path is None else 32 * 2**20,
        )
        return Engine.of(self.model, self.config, limits, clock=lambda: 0.0)


@pytest.fixture(scope="module", params=MODELS)
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    kind, kv_dtype = request.param.split()
    directory = tmp_path_factory.mktemp("model")
    if kind in ("llama", "window"):
        write_tiny_llama(directory, sliding_window=90 if kind == "window" else None)
    else:
        write_golden_model(kind, directory, max_position_embeddings=1024)
    config = ModelConfig.from_hf(directory)
    return Bench(build(config, WeightLoader(open_weights(directory))), config, kv_dtype)


def requests_of(bench: Bench, strategies: Sequence[CacheOptions | None] = FULL) -> list[Request]:
    """Prompts that repeat themselves, over vocabularies of a few tokens; each sampling once."""
    rng = np.random.default_rng(3)
    requests = []
    for index, sampling in enumerate(SAMPLINGS):
        phrase = rng.integers(3, 12, 7 + index)
        prompt = [*phrase, *rng.integers(3, 9, 5 * index), *phrase, *phrase[:4]] * (1 + index % 3)
        narrowed = replace(sampling, allowed_token_ids=sampling.allowed_token_ids or tuple(range(2, 12)))
        strategy = strategies[index % len(strategies)]
        requests.append(Request(f"{index}", [int(token) for token in prompt], narrowed, cache=strategy))
    return requests


def answers(engine: Engine, requests: Sequence[Request]) -> dict[str, Heard]:
    heard = {request.request_id: Heard() for request in requests}
    for request in requests:
        engine.add(request)
    for _ in range(2000):
        for output in engine.step():
            mine = heard[output.request_id]
            mine.token_ids += output.token_ids
            mine.logprobs += output.logprobs or ()
            mine.prompt_logprobs += output.prompt_logprobs or ()
            if output.finish_reason is not None:
                mine.end = (output.finish_reason, output.stop_token_id, output.error)
        engine.check_integrity()
        if not engine.has_work():
            return heard
    raise AssertionError("the requests do not come to an end")


@pytest.fixture(scope="module")
def plain(bench: Bench) -> dict[str, Heard]:
    """What is said without guesses."""
    return answers(bench.engine(0), requests_of(bench))


def check_guesses(engine: Engine) -> None:
    """Some were right and some were wrong."""
    stats = engine.stats().scheduler
    assert 0 < stats.num_accepted_tokens < stats.num_drafted_tokens


def test_each_request_alone_hears_the_same(bench: Bench, plain: dict[str, Heard]) -> None:
    engine = bench.engine(15)
    alone = [answers(engine, [request]) for request in requests_of(bench)]
    assert {name: heard for each in alone for name, heard in each.items()} == plain
    check_guesses(engine)


@pytest.mark.parametrize("max_draft_tokens", [1, 4, 32])
def test_a_batch_hears_the_same_however_long_the_guesses(
    bench: Bench, plain: dict[str, Heard], max_draft_tokens: int
) -> None:
    engine = bench.engine(max_draft_tokens)
    assert answers(engine, requests_of(bench)) == plain
    check_guesses(engine)


def test_sequences_that_are_preempted_hear_the_same(bench: Bench) -> None:
    """At such a temperature most guesses are wrong, so that all of them grow together."""
    sampling = SamplingParams(150, temperature=2.0, ignore_eos=True, allowed_token_ids=range(5, 9), logprobs=1)
    requests = [Request(f"{seed}", (5, 6, 7, 8) * 5, replace(sampling, seed=seed)) for seed in range(3)]
    engine = bench.engine(2, num_blocks=4)
    assert answers(engine, requests) == answers(bench.engine(0), requests)
    keeps_little = bench.config.model_type == "gemma3_text"  # five of six layers see a few tokens
    assert keeps_little or engine.stats().scheduler.num_preemptions > 0
    assert engine.stats().scheduler.num_accepted_tokens > 0


def test_over_a_cold_tier_they_hear_the_same(bench: Bench, plain: dict[str, Heard], tmp_path: Path) -> None:
    engine = bench.engine(8, num_blocks=8, ssd_path=tmp_path / "cold")
    try:
        assert answers(engine, requests_of(bench)) == plain
        assert engine.stats().cache.tiers[1].transfers.num_blocks_written > 0
        check_guesses(engine)
    finally:
        engine.close()


def test_with_strategies_that_forget_they_hear_the_same(bench: Bench) -> None:
    requests, engine = requests_of(bench, LOSSY), bench.engine(8)
    assert answers(engine, requests) == answers(bench.engine(0), requests)
    check_guesses(engine)


def test_where_attention_decides_what_is_forgotten_they_hear_the_same_for_nothing_is_guessed(bench: Bench) -> None:
    requests = requests_of(bench, [CacheOptions(CacheStrategy.ADAPTIVE)])[:2]
    engine = bench.engine(8, num_blocks=12)
    assert answers(engine, requests) == answers(bench.engine(0, num_blocks=12), requests)
    assert engine.stats().scheduler.num_drafted_tokens == 0
