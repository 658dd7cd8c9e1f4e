"""Transom as one side of a comparison: its whole engine, scheduler and sampler included, in one process.

    python -m benchmarks.transom_side FILE --threads 2 --isa native --kv-tokens 20000

A context of N tokens is filled with random keys and values: while it is, `FillingModel` stands in front of the model
and leaves out the matrix products. Speed does not depend on values.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.side_process import Question, answer
from transom import kernels
from transom.cache import BLOCK_SIZE, CacheManager
from transom.config.engine_config import EngineConfig, kv_bytes_for_tokens, resolve
from transom.config.model_config import ModelConfig
from transom.config.registry_config import ModelEntry
from transom.engine.engine import Engine
from transom.layers.forward_batch import AttentionSpec, ForwardBatch
from transom.models import Model, build
from transom.registry.model_files import read_model_config
from transom.request import Request, RequestOutput, SamplingParams
from transom.weights.loader import WeightLoader
from transom.weights.sources import open_weights

MAX_NUM_SEQS = 16
MAX_BATCHED_TOKENS = 512


class FillingModel:
    """Stands in front of a model. For the next `num_tokens_to_fill` tokens it stores random KV and computes nothing."""

    def __init__(self, model: Model, config: ModelConfig) -> None:
        self._model = model
        self._config = config
        self._random = np.random.default_rng(0)
        self.num_tokens_to_fill = 0

    def forward(self, batch: ForwardBatch) -> npt.NDArray[np.float32]:
        """The model's logits, or zeros while filling."""
        if not self.num_tokens_to_fill:
            return self._model.forward(batch)
        count, config = len(batch.token_ids), self._config
        self.num_tokens_to_fill -= count
        assert self.num_tokens_to_fill >= 0, "a chunk reaches beyond the context to fill"
        heads = self._random.standard_normal((count, config.num_attention_heads, config.head_dim), dtype=np.float32)
        key_value = np.ascontiguousarray(heads[:, : config.num_key_value_heads])
        for layer in range(config.num_hidden_layers):
            batch.cache.attend(layer, heads, key_value, key_value, AttentionSpec(scale=1.0, window=BLOCK_SIZE))
        return np.zeros((len(batch.logit_rows), config.vocab_size), np.float32)

    def hidden_states(self, batch: ForwardBatch) -> npt.NDArray[np.float32]:
        """The model's own; only vectors of texts are made of them."""
        return self._model.hidden_states(batch)

    def logits(self, hidden: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The model's own."""
        return self._model.logits(hidden)


def load(path: Path, threads: int, kv_tokens: int, kv_dtype: str) -> tuple[Model, ModelConfig, EngineConfig]:
    """The model with all weights, and limits with room for so many tokens of KV."""
    kernels.set_num_threads(threads)
    entry = ModelEntry.model_validate({"id": "benchmark", "path": str(path), "tier_config": {"kv_dtype": kv_dtype}})
    model_config, engine_config = resolve(entry, read_model_config(path), num_threads=threads)
    engine_config = replace(
        engine_config,
        kv_cache_ram_bytes=kv_bytes_for_tokens(model_config, kv_dtype, kv_tokens),
        max_num_seqs=MAX_NUM_SEQS,
        max_num_batched_tokens=MAX_BATCHED_TOKENS,
        enable_prefix_cache=False,  # what was computed for one question must not answer the next
        max_draft_tokens=0,  # a step is one token
    )
    return build(model_config, WeightLoader(open_weights(path))), model_config, engine_config


class TransomSide:
    """An engine whose prompts can be filled instead of computed."""

    def __init__(self, path: Path, threads: int, kv_tokens: int, kv_dtype: str) -> None:
        started = time.perf_counter()
        self.model, self._model_config, self._engine_config = load(path, threads, kv_tokens, kv_dtype)
        self._model = FillingModel(self.model, self._model_config)
        self._engine = Engine.of(self._model, self._model_config, self._engine_config)
        self.load_seconds = time.perf_counter() - started
        self._ids = itertools.count()

    def describe(self) -> str:
        return f"transom, {kernels.active_isa()}, {kernels.num_threads()} threads, Python {platform.python_version()}"

    def prefill(self, question: Question) -> float:
        self._model.num_tokens_to_fill = question.context
        self._add(question.context + question.count, max_tokens=1)
        while self._model.num_tokens_to_fill:
            self._engine.step()
        started = time.perf_counter()
        while self._engine.has_work():
            self._engine.step()
        return time.perf_counter() - started

    def decode(self, question: Question) -> float:
        """Sequences whose context is filled earlier decode some tokens while the others are filled."""
        self._model.num_tokens_to_fill = sys.maxsize
        max_tokens = question.count + 2 * question.num_sequences + 1
        waiting = [self._add(question.context, max_tokens) for _ in range(question.num_sequences)]
        ids = tuple(waiting)
        while waiting:
            started = {output.request_id for output in self._engine.step() if output.token_ids}
            waiting = [each for each in waiting if each not in started]
        self._model.num_tokens_to_fill = 0
        self._engine.step()
        seconds = []
        for _ in range(question.count):
            began = time.perf_counter()
            outputs = self._engine.step()
            seconds.append(time.perf_counter() - began)
            assert count_tokens(outputs) == question.num_sequences, "a sequence did not take part in a step"
        for request_id in ids:
            self._engine.abort(request_id)
        return statistics.median(seconds)

    def generate(self, question: Question) -> float:
        """Seconds until `num_sequences` prompts of `context` tokens have got `count` tokens each."""
        started = time.perf_counter()
        for _ in range(question.num_sequences):
            self._add(question.context, question.count)
        while self._engine.has_work():
            self._engine.step()
        return time.perf_counter() - started

    def logits(self, token_ids: Sequence[int], path: str) -> None:
        count = len(token_ids)
        cache = CacheManager(self._model_config, self._engine_config)
        handle = cache.open(token_ids)
        assert cache.reserve(handle, count), "no room for the text"
        rows = np.arange(count, dtype=np.int32)
        batch = ForwardBatch(
            token_ids=np.array(token_ids, np.int32),
            positions=rows,
            sequence_starts=np.array([0, count], np.int32),
            logit_rows=rows,
            cache=cache.layer_cache([(handle, 0, count)]),
        )
        np.save(path, self.model.forward(batch))

    def _add(self, num_tokens: int, max_tokens: int) -> str:
        request_id = str(next(self._ids))
        tokens = (np.arange(num_tokens) * 37 % 500).tolist()
        sampling = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
        self._engine.add(Request(request_id, tokens, sampling))
        return request_id


def count_tokens(outputs: Sequence[RequestOutput]) -> int:
    """New tokens of one step."""
    return sum(len(output.token_ids) for output in outputs)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--isa", choices=("native", "avx2"), default="native")
    parser.add_argument("--kv-tokens", type=int, default=4096)
    parser.add_argument("--kv-dtype", default="f16")
    options = parser.parse_args()
    if options.isa == "avx2":
        kernels.set_active_isa("avx2")
    answer(TransomSide(options.file, options.threads, options.kv_tokens, options.kv_dtype))


if __name__ == "__main__":
    main()
