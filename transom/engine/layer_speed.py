"""How fast a model's own layers compute: some of them, with weights that are all alike, in a real engine.

Everything between the products comes with it: norms, activations, Python. Weights are not read: what their headers
say of types and shapes is enough. Takes up to a second or two, and the memory of these layers.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transom.config.engine_config import EngineConfig, kv_bytes_for_tokens
from transom.config.kv_size import conv_state_bytes
from transom.config.model_config import LayerKind, ModelConfig
from transom.engine.engine import Engine
from transom.models import Model, build, weight_sizes
from transom.request import Request, SamplingParams
from transom.weights.ggml_types import type_named
from transom.weights.loader import WeightLoader, WeightSource
from transom.weights.tensor_info import TensorInfo
from transom.weights.weight_sizes import MatrixSize

__all__ = ["LayerSpeed", "measure_layers", "prompt_multiply_adds", "used_bytes"]

MAX_TRIAL_BYTES = 640 * 2**20
"""Layers that take more are not tried."""

_VOCABULARY = 256
_PROMPT_ROWS = 256
_NUM_STEPS = 12
_FILLING = 0x2C
"""Repeated, an ordinary small number in every float type."""
_EMBEDDINGS = ("model.embed_tokens.weight", "lm_head.weight")
_EXPERTS = ".experts."
_INPUTS = ("q_proj.weight", "k_proj.weight", "v_proj.weight", "qkv_proj.weight", "in_proj.weight")
"""First matrices of a layer."""


@dataclass(frozen=True, slots=True)
class LayerSpeed:
    """What the layers of one model reach, all that happens in them included."""

    bytes_per_second: float
    """Of weights, for one token."""
    multiply_adds_per_second: float
    """With weights, for a prompt."""


def measure_layers(
    model_config: ModelConfig, source: WeightSource, *, num_threads: int, least_bytes: int, step_seconds: float
) -> LayerSpeed | None:
    """With as many layers as take `least_bytes`, or all; None where these are too large to try.

    `step_seconds` is what a step takes beside its layers.
    """
    num_layers = _num_layers(model_config, source, least_bytes)
    if num_layers is None:
        return None
    config = _first_layers(model_config, num_layers)
    stand_in = _StandIn(source, config)
    matrices = [each for each in weight_sizes(config, stand_in).matrices if each.name not in _EMBEDDINGS]
    num_rows = min(_PROMPT_ROWS, config.max_position_embeddings - _NUM_STEPS)
    if num_rows < 1:
        return None
    prompt, step = _seconds(build(config, WeightLoader(stand_in)), config, num_threads, num_rows)
    return LayerSpeed(
        bytes_per_second=sum(used_bytes(config, each) for each in matrices) / max(step - step_seconds, step / 2),
        multiply_adds_per_second=num_rows * prompt_multiply_adds(config, matrices) / prompt,
    )


def used_bytes(model_config: ModelConfig, matrix: MatrixSize) -> float:
    """What one token reads of a matrix, on the mean."""
    return _share(model_config, matrix) * matrix.num_bytes


def prompt_multiply_adds(model_config: ModelConfig, matrices: Iterable[MatrixSize]) -> float:
    """Of one token of a prompt in these matrices of layers, on the mean.

    Of the last layer only the last token comes out, so the others go no further than their keys and values.
    """
    return sum(
        _share(model_config, each) * each.out_features * each.in_features
        for each in matrices
        if _layer_of(each.name) < model_config.num_hidden_layers - 1 or each.name.endswith(_INPUTS)
    )


def _share(model_config: ModelConfig, matrix: MatrixSize) -> float:
    experts = model_config.experts
    if experts is None or _EXPERTS not in matrix.name:
        return 1.0
    return experts.num_experts_per_tok / experts.num_experts


class _StandIn:
    """Some of the tensors of a source, by their headers; every byte is the same."""

    def __init__(self, source: WeightSource, config: ModelConfig) -> None:
        self._source = source
        self._names = tuple(name for name in source.names() if _layer_of(name) < config.num_hidden_layers)

    def names(self) -> tuple[str, ...]:
        return self._names

    def info(self, name: str) -> TensorInfo:
        own = self._source.info(name)
        if name not in _EMBEDDINGS:
            return own
        shape = (_VOCABULARY, own.shape[1])
        return TensorInfo(own.dtype, shape, 0, _VOCABULARY * type_named(own.dtype).row_bytes(shape[1]))

    def tensor(self, name: str) -> NDArray[Any]:
        info = self.info(name)
        return self._filled(info.dtype, info.shape)

    def rows(self, name: str, begin: int, end: int) -> NDArray[Any]:
        info = self.info(name)
        return self._filled(info.dtype, (end - begin, *info.shape[1:]))

    def release(self, name: str) -> None:
        pass

    def _filled(self, dtype: str, shape: Sequence[int]) -> NDArray[Any]:
        of_type = type_named(dtype)
        num_bytes = of_type.row_bytes(shape[-1]) if shape else of_type.block_bytes
        content = np.full((*shape[:-1], num_bytes), _FILLING, np.uint8)
        return content if of_type.element is None else content.view(of_type.element)


def _layer_of(name: str) -> int:
    number = name.removeprefix("model.layers.").partition(".")[0]
    return int(number) if name.startswith("model.layers.") and number.isdigit() else -1


def _num_layers(model_config: ModelConfig, source: WeightSource, least_bytes: int) -> int | None:
    """Enough of the first layers, two or more, the last of them with attention; None where they take too much.

    Of the last one a prompt needs little, so one alone would say little.
    """
    by_layer = [0] * model_config.num_hidden_layers
    for name in source.names():
        if 0 <= (layer := _layer_of(name)) < len(by_layer):
            by_layer[layer] += source.info(name).nbytes
    num_bytes = 0
    for index, size in enumerate(by_layer):
        num_bytes += size
        if num_bytes > MAX_TRIAL_BYTES:
            return None
        is_last = index > 0 and model_config.layer_types[index] is not LayerKind.SHORT_CONV
        if num_bytes >= least_bytes and is_last:
            return index + 1
    return len(by_layer)


def _first_layers(config: ModelConfig, num_layers: int) -> ModelConfig:
    experts = config.experts
    if experts is not None:
        experts = replace(experts, layers=tuple(index for index in experts.layers if index < num_layers))
    return replace(
        config,
        num_hidden_layers=num_layers,
        layer_types=config.layer_types[:num_layers],
        nope_layers=tuple(index for index in config.nope_layers if index < num_layers),
        experts=experts,
        vocab_size=_VOCABULARY,
        bos_token_id=None,
        pad_token_id=None,
        eos_token_ids=(),
    )


def _seconds(model: Model, config: ModelConfig, num_threads: int, num_rows: int) -> tuple[float, float]:
    """Of a prompt of so many rows, the quicker of two, and of a token, in the middle of some."""
    num_tokens = num_rows + _NUM_STEPS
    limits = EngineConfig(
        model_path=Path("no-weights"),
        context_window=config.max_position_embeddings,
        kv_dtype="f16",
        kv_cache_ram_bytes=2 * kv_bytes_for_tokens(config, "f16", num_tokens, num_rows) + conv_state_bytes(config),
        max_ram_bytes=None,
        num_threads=num_threads,
        max_num_seqs=1,
        max_draft_tokens=0,
        enable_prefix_cache=False,
    )
    engine = Engine.of(model, config, limits)
    prompts: list[float] = []
    steps: list[float] = []
    for name in ("first", "second"):
        sampling = SamplingParams(max_tokens=_NUM_STEPS, temperature=0.0, ignore_eos=True)
        engine.add(Request(name, [1] * num_rows, sampling))
        seconds = []
        while engine.has_work():
            started = time.perf_counter()
            engine.step()
            seconds.append(time.perf_counter() - started)
        prompts.append(seconds[0])
        steps += seconds[2:]
    engine.close()
    return min(prompts), statistics.median(steps)
