"""Conversations at random that fork, break off and crowd each other out: nobody hears what an engine without reuse
would not have said, and nobody finds more than its own tenant has left."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import write_tiny_llama
from tests.golden_models import write_golden_model
from transom.config.engine_config import EngineConfig
from transom.config.kv_size import conv_state_bytes, kv_bytes_per_token
from transom.config.model_config import LayerKind, ModelConfig
from transom.engine.engine import Engine
from transom.models import Model, build
from transom.request import (
    CacheOptions,
    CacheStrategy,
    FinishReason,
    Request,
    RequestOutput,
    SamplingParams,
    TokenLogprobs,
    Usage,
)
from transom.weights.loader import WeightLoader
from transom.weights.sources import open_weights

BLOCK, MAX_NUM_SEQS, NUM_REQUESTS = 64, 4, 30
STRATEGIES = (
    CacheOptions(CacheStrategy.SLIDING_WINDOW, window_size=100),
    CacheOptions(CacheStrategy.KEEP_FIRST, window_size=140, keep_first=69),
    CacheOptions(CacheStrategy.FIFO, window_size=128),
)
MODELS = ("llama", "mixed", "window", "lfm2", "gemma3_text")
CASES = [pytest.param(name, seed, marks=[pytest.mark.slow] if seed else []) for seed in range(8) for name in MODELS]


@dataclass
class Heard:
    """All that a caller hears."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs | None] = field(default_factory=list)
    end: FinishReason | None = None
    usage: Usage | None = field(default=None, compare=False)

    def take(self, output: RequestOutput) -> None:
        self.token_ids += output.token_ids
        self.logprobs += output.logprobs or ()
        self.prompt_logprobs += output.prompt_logprobs or ()
        self.end, self.usage = output.finish_reason, output.usage


def read_model(name: str, directory: Path) -> tuple[Model, ModelConfig]:
    if name in ("llama", "mixed", "window"):
        write_tiny_llama(directory, sliding_window=90 if name == "window" else None)
    else:
        write_golden_model(name, directory, max_position_embeddings=1024)
    config = ModelConfig.from_hf(directory)
    if name == "mixed":
        layers = (LayerKind.FULL_ATTENTION, LayerKind.SLIDING_ATTENTION)
        config = replace(config, layer_types=layers, sliding_window=150)
    return build(config, WeightLoader(open_weights(directory))), config


def random_limits(draw: random.Random, config: ModelConfig) -> dict[str, Any]:
    kv_dtype = draw.choice(("f32", "f16", "q8_0"))
    num_bytes = draw.choice((20, 30, 40)) * BLOCK * kv_bytes_per_token(config, kv_dtype)
    limits: dict[str, Any] = {
        "kv_dtype": kv_dtype,
        "kv_cache_ram_bytes": num_bytes + MAX_NUM_SEQS * conv_state_bytes(config),
        "max_num_batched_tokens": draw.choice((33, 100, 256)),
        "max_draft_tokens": draw.choice((0, 8)),
    }
    if draw.random() < 0.6:
        limits["max_ssd_bytes"] = draw.choice((2**20, 2**22))
        limits["hot_tokens"] = draw.choice((None, 64, 320))
        limits["max_reuse_ssd_bytes"] = draw.choice((None, 0, 2**17))
    return limits


def make_engine(model: Model, config: ModelConfig, limits: dict[str, Any], directory: Path, *, reuses: bool) -> Engine:
    engine_config = EngineConfig(
        model_path=directory,
        context_window=1024,
        max_ram_bytes=None,
        num_threads=1,
        max_num_seqs=MAX_NUM_SEQS,
        enable_prefix_cache=reuses,
        ssd_path=directory / f"cold {reuses}" if limits.get("max_ssd_bytes") else None,
        **limits,
    )
    return Engine.of(model, config, engine_config, clock=lambda: 0.0)


class Callers:
    """Who ask at random, and go away at random."""

    def __init__(self, engine: Engine, draw: random.Random) -> None:
        self._engine = engine
        self._draw = draw
        self._live: dict[str, Request] = {}
        self._texts = [self._words(draw.randrange(1, 250)) for _ in range(2)]
        self.heard: dict[str, Heard] = {}
        self.ended: list[Request] = []

    def run(self) -> None:
        number = 0
        while number < NUM_REQUESTS or self._live:
            if number < NUM_REQUESTS and self._draw.random() < 0.4:
                self._ask(str(number))
                number += 1
            if self._live and self._draw.random() < 0.03:
                request = self._live.pop(self._draw.choice(list(self._live)))
                assert self._engine.abort(request.request_id) is not None
                self._texts.append(self._said(request))
            for output in self._engine.step():
                self._take(output)
            if self._draw.random() < 0.1:
                self._engine.check_integrity()

    def _ask(self, request_id: str) -> None:
        draw = self._draw
        base = draw.choice(self._texts)
        cut = len(base) if draw.random() < 0.6 else draw.randrange(len(base) + 1)
        prompt = (base[:cut] + self._words(draw.choice((0, 0, 1, 5, 70))))[:300] or [5]
        sampling = SamplingParams(
            draw.choice((1, 10, 64, 80)),
            temperature=draw.choice((0.0, 0.7)),
            seed=draw.randrange(9),
            logprobs=2,
            prompt_logprobs=draw.choice((None, None, None, None, 1)),
            ignore_eos=True,
            allowed_token_ids=tuple(range(3, 12)) if draw.random() < 0.5 else None,
        )
        request = Request(
            request_id,
            prompt,
            sampling,
            priority=draw.choice((0, 0, 1)),
            cache=draw.choice((None, None, None, *STRATEGIES)),
            cache_salt=draw.choice(("", "", "a", "a\0b")),
        )
        self._engine.add(request)
        self._live[request_id], self.heard[request_id] = request, Heard()

    def _take(self, output: RequestOutput) -> None:
        if output.request_id in self._live:
            self.heard[output.request_id].take(output)
            if output.finish_reason is not None:
                self.ended.append(self._live.pop(output.request_id))
                self._texts = [*self._texts[-6:], self._said(self.ended[-1])]

    def _said(self, request: Request) -> list[int]:
        return [*request.prompt_token_ids, *self.heard[request.request_id].token_ids]

    def _words(self, count: int) -> list[int]:
        return [self._draw.randrange(3, 37) for _ in range(count)]


def said_alone(engine: Engine, requests: Sequence[Request]) -> list[Heard]:
    heard = [Heard() for _ in requests]
    for request, mine in zip(requests, heard, strict=True):
        engine.add(request)
        while engine.has_work():
            for output in engine.step():
                mine.take(output)
    return heard


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("name", "seed"), CASES)
def test_conversations_at_random_say_what_they_say_without_reuse(name: str, seed: int, tmp_path: Path) -> None:
    draw = random.Random(f"{name} {seed}")
    model, config = read_model(name, tmp_path / "model")
    limits = random_limits(draw, config)
    engines = [make_engine(model, config, limits, tmp_path, reuses=reuses) for reuses in (True, False)]
    try:
        callers = Callers(engines[0], draw)
        callers.run()
        heard = [callers.heard[request.request_id] for request in callers.ended]
        assert heard == said_alone(engines[1], callers.ended)
        for usage in (each.usage for each in heard):
            assert usage is not None
            assert usage.num_cached_tokens < usage.num_prompt_tokens
            assert usage.num_cached_tokens + usage.num_cache_write_tokens <= usage.num_prompt_tokens
        assert engines[0].stats().cache.num_blocks_used == 0
        assert engines[0].stats().cache.reuse.num_hits > 0
    finally:
        for engine in engines:
            engine.close()
