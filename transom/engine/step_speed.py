"""What a step takes beside its bytes: scheduler, sampling, Python between kernels. Measured with engines too small for
anything else to matter.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transom.config.engine_config import EngineConfig
from transom.config.model_config import LayerKind, ModelConfig, RopeConfig
from transom.engine.engine import Engine
from transom.models import build, claimed_weights
from transom.request import Request, SamplingParams
from transom.weights.loader import WeightLoader
from transom.weights.weight_sizes import ClaimedWeights

__all__ = ["StepSpeed", "measure_steps"]

_FEW_LAYERS, _MANY_LAYERS = 2, 18
_NUM_STEPS = 40
_HIDDEN = 32


@dataclass(frozen=True, slots=True)
class StepSpeed:
    """Seconds that every step takes for one sequence, whatever the model's size."""

    step_seconds: float
    layer_seconds: float
    """For each layer."""


class _Zeros(ClaimedWeights):
    """All weights are zero."""

    def tensor(self, name: str) -> NDArray[Any]:
        return np.zeros(self.info(name).shape, np.float16)


def measure_steps(num_threads: int, vocab_size: int) -> StepSpeed:
    """For a choice among so many tokens. Some hundredths of a second; a few MiB."""
    few, many = (_median_step(num_layers, num_threads, vocab_size) for num_layers in (_FEW_LAYERS, _MANY_LAYERS))
    layer = max(0.0, many - few) / (_MANY_LAYERS - _FEW_LAYERS)
    return StepSpeed(max(0.0, few - _FEW_LAYERS * layer), layer)


def _median_step(num_layers: int, num_threads: int, vocab_size: int) -> float:
    config = _tiny(num_layers, vocab_size)
    claimed = claimed_weights(config)
    zeros = _Zeros({name: claimed.info(name).shape for name in claimed.names()}, "F16")
    limits = EngineConfig(
        model_path=Path("no-weights"),
        context_window=config.max_position_embeddings,
        kv_dtype="f16",
        kv_cache_ram_bytes=2**23,
        max_ram_bytes=None,
        num_threads=num_threads,
        max_num_seqs=1,
        max_draft_tokens=0,
    )
    engine = Engine.of(build(config, WeightLoader(zeros)), config, limits)
    sampling = SamplingParams(max_tokens=_NUM_STEPS + 2, temperature=0.0, ignore_eos=True)
    engine.add(Request("speed", [1] * 16, sampling))
    seconds = []
    while engine.has_work():
        started = time.perf_counter()
        engine.step()
        seconds.append(time.perf_counter() - started)
    engine.close()
    return statistics.median(seconds[2:])


def _tiny(num_layers: int, vocab_size: int) -> ModelConfig:
    return ModelConfig(
        model_type="llama",
        vocab_size=vocab_size,
        hidden_size=_HIDDEN,
        intermediate_size=2 * _HIDDEN,
        num_hidden_layers=num_layers,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=_HIDDEN,
        max_position_embeddings=1024,
        layer_types=(LayerKind.FULL_ATTENTION,) * num_layers,
        sliding_window=None,
        hidden_act="silu",
        rms_norm_eps=1e-5,
        rope=RopeConfig(rope_type="default", rope_theta=10_000.0, rotary_dim=_HIDDEN),
        tie_word_embeddings=True,
        attention_bias=False,
        attention_output_bias=False,
        mlp_bias=False,
        bos_token_id=None,
        eos_token_ids=(),
        pad_token_id=None,
        dtype="float32",
    )
