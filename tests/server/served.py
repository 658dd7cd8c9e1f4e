"""A served model without a worker: the real text room over an engine that recites a known text, byte by byte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from tokenizers import Tokenizer as Core
from tokenizers import decoders, models, pre_tokenizers

from tests.fakes import byte_model_config, small_engine_config
from transom.cache import BLOCK_SIZE, BlockRun, Importance, KindWindow, PlaceState, SequenceWindow
from transom.cache.stats import (
    CacheStats,
    ConvStateStats,
    KindStats,
    ReuseStats,
    SequenceStats,
    TierState,
    TierStats,
    TransferStats,
)
from transom.config.cache_options import resolve_cache
from transom.config.model_config import GenerationDefaults, LayerKind
from transom.config.pooling_config import PoolingConfig
from transom.config.registry_config import ModelEntry, ServerConfig
from transom.engine import EngineState, EngineStats, EngineStatus, EngineView, LoadReport
from transom.errors import TransomError
from transom.llm import LLM
from transom.registry import ModelRegistry, ServedModel
from transom.request import CacheStrategy, FinishReason, Request, RequestOutput, TokenLogprobs, Usage
from transom.scheduler.stats import SchedulerStats
from transom.server.app import create_app
from transom.server.lifecycle import Lifecycle
from transom.server.settings import ServerSettings
from transom.server.tracing import Tracing
from transom.tokenizer import ChatTemplate, Tokenizer
from transom.tokenizer.tokenizer_files import TokenizerSettings

WINDOW = 256
TEXT = "Grüße aus dem Bücherregal: the quick brown fox jumps over the lazy dog. "
RECITED = TEXT.encode() * 8
EOS = 256
VOCAB_SIZE = 260
TRANSFERS = TransferStats(1000, 0.5, 2000, 1.5, 3, 0.25, 4, 5, 6, 7)
COLD_TIER = TierStats("cold", 768, 4096, 8192, TierState.PAUSED, False, TRANSFERS)
REPORT = LoadReport(4096, 2**20, 0, 1, "avx2", 0.1, 1, WINDOW, 1024, 3)


def byte_tokenizer(*more_special_tokens: str) -> Tokenizer:
    """One token per byte, whose id is the byte; 256 ends. Further ones follow."""
    vocab = {char: index for index, char in enumerate(_byte_characters())}
    core = Core(models.BPE(vocab=vocab, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(["</s>", *more_special_tokens])
    return Tokenizer(core, TokenizerSettings({"eos_token": "</s>"}, (), None, None))


def _byte_characters() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


@dataclass
class RecitingEngine:
    """Recites `RECITED`, whatever it is asked; greedy from the start, seeded from the seed-th byte on."""

    status: EngineStatus = field(default_factory=lambda: EngineStatus(EngineState.READY))
    refusal: TransomError | None = None
    """Raised instead of the first output."""
    fails_after: int | None = None
    failure: TransomError | None = None
    """Raised when so many tokens were given."""
    holds_after: int | None = None
    """Stops for good (until aborted) when so many tokens were given."""
    end_after: int | None = None
    """The end-of-sequence token comes after so many."""
    tokens_per_output: int = 1
    recited: bytes = RECITED
    queue_seconds: float = 0.25
    num_restarts: int = 0
    process_id: int | None = None
    requests: list[Request] = field(default_factory=list)
    running: set[str] = field(default_factory=set)
    aborted: list[str] = field(default_factory=list)
    num_looks: int = 0

    report: LoadReport = REPORT

    def stats(self) -> EngineStats | None:
        scheduler = SchedulerStats(len(self.running), 0, 0, 0, 0, 0, 7, 4, 3)
        kinds = (KindStats(LayerKind.FULL_ATTENTION, 1, 2, 8, 512, 3, 1, 4),)
        sequences = (SequenceStats("cmpl-1-0-0", CacheStrategy.FULL, 300, 128, 192, 0),)
        tiers = (TierStats("hot", 512, 2048, num_bytes_reuse=256), COLD_TIER)
        return EngineStats(
            scheduler, CacheStats(64, 1, 5, tiers, kinds, sequences, ReuseStats(1, 640, 7, 3, 64, 5, 6)), 1, 0.1, 0
        )

    def counted(self) -> EngineStats | None:
        return self.stats()

    async def look(self) -> EngineView | None:
        """Every running sequence has as many tokens as its prompt, in RAM only those of the last block."""
        stats = self.stats()
        if stats is None or self.status.state is not EngineState.READY:
            return None
        self.num_looks += 1
        windows = tuple(_window(request) for request in self.requests if request.request_id in self.running)
        sequences = tuple(window.stats for window in windows)
        return EngineView(replace(stats, cache=replace(stats.cache, sequences=sequences)), windows)

    async def start(self) -> LoadReport:
        """Never ends for an engine that is starting, and makes one that is stopped ready."""
        if self.status.state is EngineState.STARTING:
            await asyncio.Event().wait()
        self.status = EngineStatus(EngineState.READY)
        return self.report

    async def close(self, drain_seconds: float = 0.0) -> None:
        pass

    async def abort(self, request_id: str) -> None:
        self.aborted.append(request_id)

    async def generate(self, request: Request) -> AsyncGenerator[RequestOutput]:
        self.requests.append(request)
        self.running.add(request.request_id)
        is_done = False
        try:
            if self.refusal is not None:
                raise self.refusal
            num_computed = len(request.prompt_token_ids)
            yield RequestOutput(request.request_id, num_computed_tokens=num_computed, queue_seconds=self.queue_seconds)
            if request.pooling is not None:
                is_done = True
                yield _vector_output(request)
                return
            async for output in self._recite(request):
                is_done = output.finish_reason is not None
                yield output
        finally:
            self.running.discard(request.request_id)
            if not is_done:
                self.aborted.append(request.request_id)

    async def _recite(self, request: Request) -> AsyncGenerator[RequestOutput]:
        tokens = self._tokens(request)
        for start in range(0, len(tokens), self.tokens_per_output):
            await self._obstacle(start)
            piece = tokens[start : start + self.tokens_per_output]
            output = RequestOutput(request.request_id, piece, self._logprobs(request, piece))
            if start == 0:
                output = replace(output, prompt_logprobs=self._prompt_logprobs(request))
            if start + self.tokens_per_output >= len(tokens):
                output = self._ended(output, request, tokens)
            yield output

    async def _obstacle(self, num_tokens: int) -> None:
        if self.fails_after is not None and num_tokens >= self.fails_after and self.failure is not None:
            raise self.failure
        if self.holds_after is not None and num_tokens >= self.holds_after:
            await asyncio.Event().wait()
        await asyncio.sleep(0)

    def _tokens(self, request: Request) -> tuple[int, ...]:
        start = (request.sampling.seed or 0) % len(TEXT.encode())
        tokens = tuple(self.recited[start : start + request.sampling.max_tokens])
        if self.end_after is not None and self.end_after < len(tokens):
            tokens = (*tokens[: self.end_after], EOS)
        return tokens

    def _ended(self, output: RequestOutput, request: Request, tokens: tuple[int, ...]) -> RequestOutput:
        is_stop = tokens[-1] == EOS
        return replace(
            output,
            finish_reason=FinishReason.STOP if is_stop else FinishReason.LENGTH,
            stop_token_id=EOS if is_stop else None,
            usage=Usage(len(request.prompt_token_ids), len(tokens)),
        )

    def _logprobs(self, request: Request, tokens: Iterable[int]) -> tuple[TokenLogprobs, ...] | None:
        count = request.sampling.logprobs
        if count is None:
            return None
        seed = request.sampling.seed or 0
        return tuple(self._scored(token, count, -0.5 - seed / 100) for token in tokens)

    def _prompt_logprobs(self, request: Request) -> tuple[TokenLogprobs | None, ...] | None:
        count = request.sampling.prompt_logprobs
        if count is None:
            return None
        scored = (self._scored(token, count, -2.0) for token in request.prompt_token_ids[1:])
        return (None, *(replace(logprobs, rank=1) for logprobs in scored))

    def _scored(self, token: int, count: int, logprob: float) -> TokenLogprobs:
        rivals = ((token, logprob), *((rival, float("-inf")) for rival in range(1, 100) if rival != token))
        return TokenLogprobs(token, logprob, rivals[:count])


def _window(request: Request) -> SequenceWindow:
    num_tokens = len(request.prompt_token_ids)
    num_cold = num_tokens // BLOCK_SIZE
    num_hot_tokens = num_tokens % BLOCK_SIZE
    stats = SequenceStats(request.request_id, CacheStrategy.FULL, num_tokens, num_hot_tokens, num_cold * BLOCK_SIZE, 0)
    runs = (BlockRun(PlaceState.COLD, num_cold), BlockRun(PlaceState.HOT, 1))
    kind = KindWindow(LayerKind.FULL_ATTENTION, 1, runs, ((0, 1),), 0, 0, Importance(1, (0.25, 0.75)))
    return SequenceWindow(stats, 64, (kind,))


def _vector_output(request: Request) -> RequestOutput:
    """Of 8 numbers: how many tokens, the first one, the last one, and zeros."""
    ids = request.prompt_token_ids
    vector = (float(len(ids)), float(ids[0]), float(ids[-1]), 0.0, 0.0, 0.0, 0.0, 0.0)
    usage = Usage(len(ids), 0)
    return RequestOutput(request.request_id, finish_reason=FinishReason.LENGTH, usage=usage, vector=vector)


class ConvolvingEngine(RecitingEngine):
    """Of a model with convolutions."""

    def stats(self) -> EngineStats | None:
        stats = super().stats()
        assert stats is not None
        return replace(stats, cache=replace(stats.cache, conv_states=ConvStateStats(3, 2, 8, 20, 80)))


def served_model(
    engine: RecitingEngine | None = None,
    *,
    model_id: str = "tiny",
    aliases: tuple[str, ...] = ("org/tiny-alias",),
    defaults: GenerationDefaults | None = None,
    template: str | None = None,
    cache: dict[str, Any] | None = None,
    pooling: PoolingConfig | None = None,
    tokenizer: Tokenizer | None = None,
    window: int = WINDOW,
    **settings: Any,
) -> ServedModel:
    """A model with this context window over an engine that recites; `settings`: more keys of its entry."""
    engine = engine or RecitingEngine()
    config = replace(byte_model_config(VOCAB_SIZE, (EOS,)), max_position_embeddings=window)
    defaults = defaults or GenerationDefaults()
    tokenizer = tokenizer or byte_tokenizer()
    llm = LLM(config, tokenizer, ChatTemplate(template, tokenizer), defaults, engine)
    entry = ModelEntry.for_path(Path("tiny"), id=model_id, aliases=aliases, cache=cache or {}, **settings)
    limits = replace(small_engine_config(), context_window=window, cache=resolve_cache(entry.cache, window))
    pooling = pooling or PoolingConfig()
    return ServedModel(entry, config, 2 * window, limits, defaults, llm, engine, pooling=pooling)


def make_app(
    *engines: RecitingEngine,
    settings: ServerSettings | None = None,
    lifecycle: Lifecycle | None = None,
    load_wait_seconds: float = 0.05,
    template: str | None = None,
    window: int = WINDOW,
    tracing: Tracing | None = None,
) -> FastAPI:
    """The application over one model per engine: `tiny`, `tiny-1`, ..."""
    server = ServerConfig(load_wait_seconds=load_wait_seconds)
    models = [
        served_model(
            engine,
            model_id="tiny" if number == 0 else f"tiny-{number}",
            aliases=(f"org/tiny-alias-{number}",),
            template=template,
            window=window,
        )
        for number, engine in enumerate(engines or (RecitingEngine(),))
    ]
    return create_app(ModelRegistry(models, server=server), settings or ServerSettings(), lifecycle, tracing=tracing)
