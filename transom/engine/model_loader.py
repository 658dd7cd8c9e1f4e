"""From a model's path to an engine that can serve it. Runs in the worker.

Before the first tensor is read, it is checked that all are the model's, and that weights, KV and workspace fit into
`max_ram_bytes`.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from llguidance import LLTokenizer

from transom import kernels
from transom.config.engine_config import EngineConfig, check_memory, workspace_bytes
from transom.config.model_config import ModelConfig
from transom.engine.engine import Engine
from transom.engine.grammars import Grammars
from transom.engine.loading_priority import at_low_priority
from transom.engine.model_identity import ModelIdentity
from transom.engine.reports import LoadReport
from transom.errors import ConfigError
from transom.grammar.vocabulary import Vocabulary, make_tokenizer
from transom.models import build, weight_sizes
from transom.tokenizer import Tokenizer
from transom.weights.gguf import find_gguf, open_gguf
from transom.weights.loader import WeightLoader
from transom.weights.quantization import QuantizedSource
from transom.weights.sources import num_parameters, open_weights, quantized_weights

logger = logging.getLogger(__name__)


def _ignore_progress(done_bytes: int, total_bytes: int) -> None:
    """Nobody is watching."""


def load_engine(
    model_config: ModelConfig,
    engine_config: EngineConfig,
    progress: Callable[[int, int], None] = _ignore_progress,
) -> tuple[Engine, LoadReport]:
    """Loads weights and allocates the KV arena; blocks for as long as that takes.

    `progress(done_bytes, total_bytes)` is called after every tensor, from the thread that loads. Raises ConfigError
    when it fits neither `max_ram_bytes` nor this machine, UnsupportedModelError, WeightsError.
    """
    started = time.monotonic()
    stored = open_weights(engine_config.model_path)
    weights = quantized_weights(stored, engine_config.quantization)
    if isinstance(weights, QuantizedSource):
        _log_fallbacks(weights)
    check_memory(model_config, engine_config, weight_sizes(model_config, weights).num_bytes)
    loader = WeightLoader(weights, progress)
    try:
        model = at_low_priority(lambda: build(model_config, loader), engine_config.num_threads)
        identity = ModelIdentity(model_config, engine_config, stored.files)

        def identify(remembered: bytes | None) -> tuple[bytes, bytes]:
            return at_low_priority(lambda: identity(remembered), engine_config.num_threads)

        grammars = Grammars(lambda: _grammar_tokenizer(engine_config.model_path, model_config.vocab_size))
        engine = Engine.of(model, model_config, engine_config, identify=identify, grammars=grammars)
    except MemoryError as error:
        raise ConfigError(
            f"{engine_config.model_path}: this machine has not enough memory for weights and KV"
        ) from error
    cache = engine.stats().cache
    return engine, LoadReport(
        weights_bytes=loader.num_bytes,
        kv_bytes=cache.tiers[0].num_bytes_total + (cache.conv_states.num_bytes_total if cache.conv_states else 0),
        workspace_bytes=workspace_bytes(model_config, engine_config),
        num_threads=kernels.num_threads(),
        instruction_set=kernels.active_isa(),
        load_seconds=time.monotonic() - started,
        process_id=os.getpid(),
        max_sequence_tokens=engine.max_sequence_tokens(engine_config.context_window),
        num_parameters=num_parameters(weights),
        num_full_requests=engine.max_sequences(engine_config.context_window, engine_config.max_num_seqs),
    )


def _grammar_tokenizer(model_path: Path, vocab_size: int) -> LLTokenizer:
    """What grammars know of the model's tokens. Blocks for about a second; only who uses grammars pays for it."""
    gguf_path = find_gguf(model_path)
    if gguf_path is None:
        tokenizer = Tokenizer.from_directory(model_path)
    else:
        tokenizer = Tokenizer.from_gguf(open_gguf(gguf_path).metadata)
    return make_tokenizer(
        Vocabulary.of(tokenizer, vocab_size), lambda text: tokenizer.encode(text, add_special_tokens=False)
    )


def _log_fallbacks(weights: QuantizedSource) -> None:
    for dtype, count in Counter(weights.fallbacks.values()).items():
        logger.info(
            "%d matrices become %s: their rows are no whole blocks of the type that was asked for", count, dtype
        )
